"""A plugin that goes wrong where it is told to."""

import errno
import os
from collections.abc import Iterable

from nbdfork.plugin import BlockSize, Export, ExportInfo, Parameter, Plugin, parse


def _error(text: str) -> Exception:
    """An errno's name, perhaps with a text behind a colon, is an OSError; anything else, a bug."""
    name, _, reason = text.partition(":")
    number = getattr(errno, name, None)
    return OSError(number, reason or os.strerror(number)) if number else RuntimeError(text)


class Failing(Plugin):
    """raise the exceptions that the parameters name"""

    pread_error = Parameter(_error, metavar="ERRNO", help="raised by pread")
    pwrite_error = Parameter(_error, metavar="ERRNO", help="raised by pwrite")
    flush_error = Parameter(_error, metavar="ERRNO", help="raised by flush")
    zero_error = Parameter(_error, metavar="ERRNO", help="raised by zero")
    preconnect_error = Parameter(_error, metavar="ERRNO", help="raised by preconnect")
    default_error = Parameter(_error, metavar="ERRNO", help="raised by default_export")
    size_error = Parameter(_error, metavar="ERRNO", help="raised by get_size")
    open_error = Parameter(_error, metavar="ERRNO", help="raised by open")
    close_error = Parameter(_error, metavar="ERRNO", help="raised by close")
    list_error = Parameter(_error, metavar="ERRNO", help="raised by list_exports")
    ready_error = Parameter(_error, metavar="ERRNO", help="raised by get_ready")
    fork_error = Parameter(_error, metavar="ERRNO", help="raised by after_fork")
    short = Parameter(parse.size, default=0, metavar="N", help="pread returns N bytes too few")
    preferred = Parameter(parse.size, default=4096, metavar="N", help="the preferred block size")

    def get_ready(self) -> None:
        if self.ready_error:
            raise self.ready_error

    def after_fork(self) -> None:
        if self.fork_error:
            raise self.fork_error

    def preconnect(self, read_only: bool) -> None:
        if self.preconnect_error:
            raise self.preconnect_error

    def default_export(self, read_only: bool) -> str:
        if self.default_error:
            raise self.default_error
        return ""

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        if self.list_error:
            raise self.list_error
        return super().list_exports(read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        if self.open_error:
            raise self.open_error
        return self

    def get_size(self) -> int:
        if self.size_error:
            raise self.size_error
        return 8192

    def block_size(self) -> BlockSize:
        return BlockSize(1, self.preferred)

    def can_multi_conn(self) -> bool:
        return True

    def can_write(self) -> bool:
        return bool(self.pwrite_error or self.flush_error or self.zero_error or self.close_error)

    def can_flush(self) -> bool:
        return self.can_write()

    def pread(self, count: int, offset: int) -> bytes:
        if self.pread_error:
            raise self.pread_error
        return bytes(count - self.short)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if self.pwrite_error:
            raise self.pwrite_error

    def flush(self) -> None:
        if self.flush_error:
            raise self.flush_error

    def zero(self, count: int, offset: int, flags: int) -> None:
        if self.zero_error:
            raise self.zero_error

    def close(self) -> None:
        if self.close_error:
            raise self.close_error
