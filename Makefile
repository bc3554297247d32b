# Everything a developer types.  PYTHON must have nbdfork[test] installed; see README.md.

PYTHON = .venv/bin/python
JOBS = 2

.PHONY: check lint test coverage clean

check: lint test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict nbdfork plugins tests contrib/examples/*.py
	$(PYTHON) -m mypy --strict -p contrib.bench

test:
	$(PYTHON) -m pytest -n $(JOBS) --dist loadfile

coverage:
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
