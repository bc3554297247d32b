"""A compressed file as a disk: what the filter of a format makes of it.

The filter learns what it needs to know of the file when the server starts.
"""

import os
import stat
from abc import ABC, abstractmethod
from typing import Protocol

from nbdfork.plugin import ConfigError, DescriptorExport, Export, Needs, Parameter, Plugin, parse

from .files import check_disk


class Unpacker(Protocol):
    """What the filters that unpack have, beyond what all filters have."""

    def get_ready(self) -> None:
        """Prepare what all clients share."""

    def unpack(self, next: Export, name: str) -> Export:
        """Return the disk that is in *next*, which is called *name* in messages."""


class UnpackPlugin(Plugin, ABC):
    """Serve what is in a compressed file."""

    file = Parameter(
        parse.path, required=True, magic=True, metavar="FILENAME", help="the compressed file"
    )

    @abstractmethod
    def make_filter(self) -> Unpacker:
        """Return the filter that unpacks, configured."""

    def config_complete(self) -> None:
        """Look now whether there is something to serve, while the user can be told."""
        self._name = type(self).__name__.lower()
        try:
            mode = os.stat(self.file).st_mode
        except OSError as error:
            raise ConfigError(f"{self._name}: {self.file}: {error.strerror}") from error
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise ConfigError(
                f"{self._name}: {self.file} is neither a regular file nor a block device"
            )

    def needs(self) -> Needs:
        return Needs(read=frozenset({self.file}))

    def get_ready(self) -> None:
        """Learn what is to be learnt of the file, once for all workers."""
        self._filter = self.make_filter()
        self._filter.get_ready()
        try:
            self.open("", read_only=True).close()
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise ConfigError(f"{self._name}: {where}{error.strerror or error}") from error

    def check_access(self, read_only: bool) -> None:
        check_disk(self._name, self.file, read_only=True)

    def open(self, export_name: str, read_only: bool) -> Export:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # should it have become a fifo
        below = DescriptorExport(os.open(self.file, flags), writable=False)
        try:
            return self._filter.unpack(below, self.file)
        except BaseException:
            below.close()
            raise
