"""Look for input that breaks a target: python -m tests.fuzz TARGET SECONDS [FOUND [SEED]].

FOUND is a directory for what is found; without a SEED each run looks elsewhere.
"""

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nbdfork"], enable_loader_override=False):
    from tests.fuzz.targets import CORPUS, TARGETS

MAX_SECONDS = 10
"""What one input may take."""

MAX_MEMORY = 1024
"""What all may take, in MiB."""


def main() -> None:
    name, seconds, *rest = sys.argv[1:]
    found = Path(rest[0] if rest else f".fuzz/{name}")
    found.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)
    words = [
        f"-max_total_time={seconds}",
        f"-timeout={MAX_SECONDS}",
        f"-rss_limit_mb={MAX_MEMORY}",
        "-max_len=4096",
        "-print_final_stats=1",
        f"-artifact_prefix={found}/broken-",
        *(f"-seed={seed}" for seed in rest[1:]),
        str(found),
        str(CORPUS / name),
    ]
    atheris.Setup([sys.argv[0], *words], TARGETS[name])
    atheris.Fuzz()


main()
