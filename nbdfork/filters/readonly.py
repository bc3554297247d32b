"""The readonly filter: let nobody write, or nobody while a certain file exists."""

import errno
import os
from collections.abc import Callable

from nbdfork.filters._around import AroundChanges, Request, T
from nbdfork.plugin import Export, Filter, FilterExport, Needs, Parameter, parse


class ReadOnly(Filter):
    """let no client write"""

    readonly_file = Parameter(
        parse.path, metavar="FILENAME", help="let them write while this file does not exist"
    )

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        if self.readonly_file is None:
            return ReadOnlyExport(next)
        return GuardedExport(next, self.readonly_file)


class ReadOnlyExport(FilterExport):
    """*next*, which cannot be written."""

    def can_write(self) -> bool:
        return False


class GuardedExport(AroundChanges):
    """*next*, which cannot be written while there is a file at *path*."""

    def __init__(self, next: Export, path: str) -> None:
        super().__init__(next)
        self._path = path

    def around(self, request: Request, do: Callable[[], T]) -> T:
        if os.path.lexists(self._path):
            raise OSError(errno.EPERM, "the disk is read-only at present", self._path)
        return do()
