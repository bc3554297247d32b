"""The disks that cells name, each made when a cell first needs it.

This is the table of their names.  The disks that every server has are made here; what both
nbdkit and nbdfork serve by the same plugin is made in `plugins`.
"""

import os
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from contrib.bench import plugins
from contrib.bench.materials import MIB, Disk, Materials

BLOCK = 4096
SPARSE_SIZE = 1 << 40
SPARSE_BLOCKS = 4096


def _file(materials: Materials) -> Disk:
    return Disk("file", materials.size, materials.file)


def _sparse(materials: Materials) -> Disk:
    """Return a large image with data here and there, as one of a virtual machine might have."""
    path = materials.directory / "sparse"
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


def _walled(materials: Materials) -> Disk:
    """Return the same file, for the servers that are told to wall their workers in, or not to."""
    return Disk("walled", materials.size, materials.file)


def _in_memory(kind: str, materials: Materials) -> Disk:
    return Disk(kind, materials.ram_size, filling=materials.filling)


def _computed(materials: Materials) -> Disk:
    return Disk("computed", 64 * MIB)  # the script knows no other size


DISKS: Mapping[str, Callable[[Materials], Disk]] = {
    "file": _file,
    "walled": _walled,
    "sparse": _sparse,
    "ram": partial(_in_memory, "ram"),
    "script": partial(_in_memory, "script"),
    "computed": _computed,
    **plugins.DISKS,
}
"""How each disk is made.  Raises `BenchError` if the machine lacks what it takes."""


class Disks:
    """The disks of a run.  *size*: bytes of the file that is served."""

    def __init__(self, directory: Path, size: int) -> None:
        self._materials = Materials(directory, size)
        self._made: dict[str, Disk] = {}

    def get(self, name: str) -> Disk:
        """Return the disk of that name in `DISKS`.  Raises `BenchError`."""
        if name not in self._made:
            self._made[name] = DISKS[name](self._materials)
        return self._made[name]

    def close(self) -> None:
        """End what was started for the disks."""
        self._materials.close()
