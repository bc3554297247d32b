"""What the tests of the python plugin share."""

from pathlib import Path

MINIMUM = """\
import nbdkit
API_VERSION = 2
def open(readonly): return 1
def get_size(h): return 1048576
def pread(h, buf, offset, flags): pass
"""


def script(directory: Path, text: str, base: str = MINIMUM) -> Path:
    """Return the path of a script: *text* after the required callbacks."""
    path = directory / "script.py"
    path.write_text(base + text + "\n")
    return path


VERSION_1 = MINIMUM.replace("API_VERSION = 2", "").replace("h, buf, offset, flags", "h, n, offset")
