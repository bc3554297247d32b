"""Disks that cannot keep what is written to them: a real one, and one that any user can have."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.harness import need, output, run

_SHIM = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

/* What the C library would do, but for a disk that is broken while there is this file. */
static int is_broken (void) { return access (getenv ("BROKEN"), F_OK) == 0; }

int fdatasync (int fd) {
  if (is_broken ()) { errno = EIO; return -1; }
  return fsync (fd);
}

ssize_t pwritev2 (int fd, const struct iovec *data, int count, off_t offset, int flags) {
  if (flags && is_broken ()) { errno = EIO; return -1; }
  ssize_t done = pwritev (fd, data, count, offset);
  if (done < 0 || (flags && fsync (fd))) return -1;
  return done;
}

ssize_t pwritev64v2 (int fd, const struct iovec *data, int count, off_t offset, int flags) {
  return pwritev2 (fd, data, count, offset, flags);
}
"""


class Shim:
    """A server with this *environment* cannot flush anything while its disk is called broken."""

    def __init__(self, place: Path) -> None:
        need("cc")
        source, library = place / "shim.c", place / "shim.so"
        source.write_text(_SHIM)
        output("cc", "-shared", "-fPIC", "-o", library, source)
        self._sign = place / "broken"
        self.environment = {"LD_PRELOAD": str(library), "BROKEN": str(self._sign)}

    @contextmanager
    def broken(self) -> Iterator[None]:
        """In here, the disk is broken."""
        self._sign.touch()
        yield
        self._sign.unlink()


@contextmanager
def thin_device(place: Path, space: int, size: int) -> Iterator[Path]:
    """Yield a block device of *size* bytes that can keep *space* of them, and loses the others.

    Skips the test for users who may not make one.
    """
    need("losetup")
    mounted = place / "thin"
    mounted.mkdir()
    if run("mount", "-t", "tmpfs", "-o", f"size={space}", "none", mounted).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    device = ""
    try:
        backing = mounted / "backing"
        with backing.open("wb") as file:
            file.truncate(size)
        made = run("losetup", "--find", "--show", backing)
        if made.returncode != 0:
            pytest.skip("there are no loop devices")
        device = made.stdout.strip()
        assert re.fullmatch(r"/dev/loop\d+", device)
        yield Path(device)
    finally:
        if device:
            output("losetup", "--detach", device)
        output("umount", "-l", mounted)
