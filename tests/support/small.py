"""A small file system that a server has for itself, and that becomes full."""

from pathlib import Path

import pytest

from tests.support.harness import Server, need, run

_MOUNT = """
mount -t tmpfs -o size="$1" none "$0" && truncate -s "$2" "$0/disk" && shift 2 && exec "$@"
"""


def small(place: Path, space: int, size: int) -> tuple[str | Path, ...]:
    """Return `within` for a server that has *space* bytes at *place*, seen by nobody else.

    There it finds a file "disk" of *size* bytes.  Skips the test where nobody may mount.
    """
    need("unshare", "mount")
    alone = ["unshare", "-m"]
    if run(*alone, "true").returncode != 0:
        alone = ["unshare", "-r", "-m"]
    if run(*alone, "mount", "-t", "tmpfs", "none", place).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    return (*alone, "sh", "-c", _MOUNT, place, str(space), str(size))


def seen(server: Server, path: Path) -> Path:
    """Return the way to *path* as the *server* sees it."""
    return Path(f"/proc/{server.pid}/root{path}")
