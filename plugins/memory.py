"""The memory plugin: a sparse RAM disk that all clients share.

Workers are processes, so the disk must be memory that belongs to none of them: a memfd that is made
before the fork.  It is read and written with pread and pwrite, and not mapped, because reading a
hole through a mapping would allocate it.  It has a name, so that it survives a reload.
"""

import mmap
import os

from nbdfork.plugin import DescriptorExport, Export, Needs, Parameter, Plugin, parse

from ._parts.allocator import FORMS, Allocator, allocator, made


class Memory(Plugin):
    """a RAM disk, sparse and shared by all clients"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )

    allocator = Parameter(
        allocator, default=Allocator(), metavar=FORMS, help="how its memory is taken"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._kept: list[mmap.mmap] = []
        self._disk = made("memory", self.allocator, self.size, self._kept.append)

    def open(self, export_name: str, read_only: bool) -> Export:
        return DescriptorExport(os.dup(self._disk.fd), writable=not read_only)
