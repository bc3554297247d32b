# Everything a developer types.  PYTHON must have nbdfork[test] installed; see README.md.

PYTHON = .venv/bin/python
JOBS = 2
KILLS = 10000

# The Python that types are checked for, if not PYTHON: TARGET="--python-version=3.13".
TARGET =
SHELL_SCRIPTS = .ci/run contrib/bootstrap contrib/bench/scripts/dd.sh \
    contrib/packaging/nbdfork.init contrib/packaging/bash-completion/nbdfork

.PHONY: check lint style types shell test unit html fuzz soak upgrade torture coverage sanitize \
    sanitize-short twins plain clean

check: lint test plain sanitize-short

lint: style types shell

style:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy --strict $(TARGET) nbdfork plugins tests contrib/examples/*.py doc/site/build.py
	$(PYTHON) -m mypy --strict $(TARGET) -p contrib.bench

shell:
	@if command -v shellcheck >/dev/null; then \
	    echo shellcheck $(SHELL_SCRIPTS); shellcheck $(SHELL_SCRIPTS); \
	else \
	    echo "shellcheck is not installed: the shell scripts are not checked"; \
	fi

test:
	$(PYTHON) -m pytest -n $(JOBS) --dist loadfile

unit:
	$(PYTHON) -m pytest -n $(JOBS) tests/unit

# The guides, the manual and the contract as a site, in build/html.
html:
	$(PYTHON) doc/site/build.py build/html

# What a test has in short: very many clients at once, and one after another.  Ten minutes or more.
soak:
	SOAK_CLIENTS=1000 SOAK_CONNECTIONS=100000 $(PYTHON) -m pytest -v --timeout=0 \
	    tests/faults/test_soak.py

# What a test has in short: a server that is replaced again and again under its clients.
upgrade:
	UPGRADES=20 UPGRADE_CLIENTS=50 $(PYTHON) -m pytest -q -s --timeout=0 \
	    tests/clients/test_upgrade.py -k under_load

torture:
	NBDFORK_KILLS=$(KILLS) $(PYTHON) -m pytest -q -s --timeout=0 \
	    tests/faults/test_kills.py tests/faults/test_torture.py

# SECONDS is for each target; TARGETS="handshake options" looks at these alone.
SECONDS = 600
TARGETS = $(notdir $(wildcard tests/fuzz/corpus/*))

fuzz:
	for target in $(TARGETS); do \
	    $(PYTHON) -m tests.fuzz $$target $(SECONDS) || exit 1; \
	done

# Made-up streams of requests, a million, to the request loop and its twin in C.
STREAMS = 1000000

twins:
	$(PYTHON) -m tests.support.twins $(STREAMS)

# Without the twin in C: what it must not be needed for.
plain:
	NBDFORK_SPEEDUPS=0 $(PYTHON) -m pytest -q -n $(JOBS) --dist loadfile tests/unit/protocol \
	    tests/clients/test_golden.py tests/clients/test_model.py tests/clients/test_requests.py \
	    tests/clients/test_structured.py

coverage:
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest -n $(JOBS) --dist loadfile
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

# The C code under AddressSanitizer and UndefinedBehaviorSanitizer, with all tests of it.
sanitize:
	$(PYTHON) -m tests.support.sanitizer

# The tests that call everything once.
sanitize-short:
	$(PYTHON) -m tests.support.sanitizer --short

clean:
	rm -rf build dist *.egg-info .venv-* .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
