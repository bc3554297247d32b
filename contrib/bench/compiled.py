"""The programs in C that a run needs, compiled when they are first measured with.

They cost so little that what is measured is the server beside them: a client, and the limit.
"""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from contrib.bench.errors import BenchError

SOURCES = Path(__file__).resolve().parent / "c"
COMMAND = ("cc", "-O2", "-Wall", "-Wextra", "-Werror")


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nbdfork-bench")


@cache
def program(name: str) -> str:
    """Return the path of a program, compiled now if it has not been.  Raises `BenchError`."""
    target = Path(_directory().name) / name
    try:
        subprocess.run(
            [*COMMAND, "-o", target, SOURCES / f"{name}.c"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BenchError("there is no C compiler (cc)") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{name}.c: {error.stderr.strip()[:300]}") from error
    return str(target)
