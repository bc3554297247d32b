"""The memory plugin: a sparse RAM disk that all clients share.

Workers are processes, so the disk must be memory that belongs to none of them: a memfd that is made
before the fork.  It is read and written with pread and pwrite, and not mapped, because reading a
hole through a mapping would allocate it.
"""

import os

from nbdfork.plugin import ConfigError, DescriptorExport, Export, Needs, Parameter, Plugin, parse


class Memory(Plugin):
    """a RAM disk, sparse and shared by all clients"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._memfd = os.memfd_create("nbdfork-memory", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._memfd, self.size)
        except OSError as error:
            raise ConfigError(f"memory: size={self.size}: {error.strerror}") from error

    def open(self, export_name: str, read_only: bool) -> Export:
        return DescriptorExport(os.dup(self._memfd), writable=not read_only)
