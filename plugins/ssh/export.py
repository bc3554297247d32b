"""A client's view of a file on an SSH server."""

import errno
import os
import stat
from typing import NamedTuple

from nbdfork.plugin import Export, PartialError, parse

from .._link.reconnecting import KnownLosses, Link, ReconnectingLink
from .._link.timeout import Patience
from .command import Recipe, SshProcess
from .sftp import CREATE, READ, TRUNCATE, WRITE

_PAUSES = (0.0, 0.3, 1.0, 2.0)
"""Seconds to wait before each further attempt at a request whose connection was lost."""


class NewFile(NamedTuple):
    """A file to be created, in place of any that exists."""

    size: int
    mode: int


class RemoteFile(Link):
    """A file opened on the server, through a connection of its own.

    Raises OSError, or `LinkLost` if there is no connection.
    """

    def __init__(
        self, recipe: Recipe, path: bytes, flags: int, new: NewFile | None, patience: Patience
    ) -> None:
        super().__init__()
        self._process = SshProcess(recipe, patience)
        self.sftp = self._process.sftp
        self.flags = flags
        try:
            self.handle = self._open(path, new)
            self.size = self._checked_size()
        except BaseException:
            self.close()
            raise

    def _open(self, path: bytes, new: NewFile | None) -> bytes:
        if new is not None:
            handle = self.sftp.open(path, READ | WRITE | CREATE | TRUNCATE, new.mode)
            self.sftp.set_size(handle, new.size)
            return handle
        try:
            return self.sftp.open(path, self.flags, 0)
        except OSError as error:
            if error.errno != errno.EACCES or not self.flags & WRITE:
                raise
            self.flags = READ  # perhaps it can be read
            return self.sftp.open(path, self.flags, 0)

    def _checked_size(self) -> int:
        size, mode = self.sftp.attributes(self.handle)
        if mode is not None and stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "this is a directory, and not a file")
        if mode is not None and stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "this is a device, whose size SFTP does not tell")
        if size is None:
            raise OSError(errno.EIO, "the server does not tell the file's size")
        if size > parse.MAX_SIZE:
            raise OSError(errno.EIO, f"the far end says nonsense: a size of {size} bytes")
        return size

    def is_lost(self) -> bool:
        return self.sftp.lost is not None

    def close(self) -> None:
        self._process.close()


class SshExport(Export):
    """One client's view of the file *path*, through a connection made by *recipe*.

    With *new*, the file is created.  Several threads may call the methods at the same time.  Raises
    OSError if the file cannot be served.
    """

    def __init__(
        self,
        recipe: Recipe,
        path: bytes,
        patience: Patience,
        *,
        read_only: bool,
        new: NewFile | None = None,
    ) -> None:
        self._recipe = recipe
        self._path = path
        self._patience = patience
        self._flags = READ if read_only else READ | WRITE
        self._new = new
        self._size: int | None = None
        shown = f"{recipe.shown}:{os.fsdecode(path)}"
        self._link = ReconnectingLink(
            self._opened, _PAUSES, shown, patience.pause, patience.timeout
        )
        self._known_losses = KnownLosses(self._link)
        self._flags = self._link.current.flags

    def _opened(self) -> RemoteFile:
        """Open the file: now, and again when the connection is lost."""
        file = RemoteFile(self._recipe, self._path, self._flags, self._new, self._patience)
        self._new = None  # it is created once only
        if self._size is None:
            self._size = file.size
        if file.size != self._size:
            file.close()
            text = f"the file has changed: its size was {self._size} bytes and is {file.size}"
            raise OSError(errno.EIO, text)
        return file

    def get_size(self) -> int:
        return self._link.current.size

    def can_write(self) -> bool:
        return bool(self._flags & WRITE)

    def can_flush(self) -> bool:
        return self._link.current.sftp.can_fsync

    def can_multi_conn(self) -> bool:
        # fsync covers the whole file, but a host that has been down is noticed by each client for
        # itself: one that wrote may not know yet when another flushes.  See `_link.reconnecting`.
        return not self.can_write()

    def pread_into(self, data: memoryview, offset: int) -> None:
        count = self._link.attempt(lambda file: file.sftp.read(file.handle, data, offset))
        if count < len(data):
            text = "the file has become shorter than it was when opened"
            error = self._link.named(OSError(errno.EIO, text))
            raise PartialError(errno.EIO, error.strerror or "", count)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._link.write(lambda file: file.sftp.write(file.handle, data, offset))

    def flush(self) -> None:
        self._link.flush(lambda file: file.sftp.fsync(file.handle), self._known_losses)

    def close(self) -> None:
        self._link.close()
