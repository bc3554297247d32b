"""What is served: files made once for a run, and the sizes of disks that are in memory.

A file is made when a cell first needs it, on an ordinary file system (`machine` notes which), and
stays in the page cache: no cell measures a medium.
"""

import os
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

MIB = 1 << 20
BLOCK = 4096
SPARSE_SIZE = 1 << 40
SPARSE_BLOCKS = 4096


@dataclass(frozen=True)
class Disk:
    """What one server serves: a kind that the servers have recipes for, its size in bytes, and a
    file: of kind "file" the disk itself, of others what the disk is filled from at first.
    """

    kind: str
    size: int
    path: Path | None = None


class Disks:
    """The disks of a run.  *size*: bytes of the file; a RAM disk has at most 64 MiB of it."""

    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._size = size
        self._ram_size = min(size, 64 * MIB)

    def get(self, kind: str) -> Disk:
        """Return the disk of a cell: "file", "sparse", "ram", "script" or "computed"."""
        if kind == "file":
            return self._file
        if kind == "sparse":
            return self._sparse
        if kind == "computed":
            return Disk(kind, 64 * MIB)
        return Disk(kind, self._ram_size, self._filling)

    @cached_property
    def _file(self) -> Disk:
        return Disk("file", self._size, self._random("disk", self._size))

    @cached_property
    def _filling(self) -> Path:
        return self._random("filling", self._ram_size)

    @cached_property
    def _sparse(self) -> Disk:
        """A large image with data here and there, as one of a virtual machine might have."""
        path = self._directory / "sparse"
        places = random.Random(1)  # the same in every run
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.truncate(fd, SPARSE_SIZE)
            for _ in range(SPARSE_BLOCKS):
                os.pwrite(fd, b"x" * BLOCK, places.randrange(SPARSE_SIZE // BLOCK) * BLOCK)
            os.fsync(fd)
        finally:
            os.close(fd)
        return Disk("file", SPARSE_SIZE, path)

    def _random(self, name: str, size: int) -> Path:
        """Make a file without a hole, and without zeroes that a copy would skip."""
        path = self._directory / name
        with path.open("wb") as file:
            for start in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - start)))
            file.flush()
            os.fsync(file.fileno())  # so that writing it back disturbs no measurement
        return path
