"""The error filter: make requests fail at random, to see how clients cope.

A request fails before anything is done; nothing else about the disk changes.
"""

import errno
import os
import random
from collections.abc import Iterable
from typing import NamedTuple

from nbdfork.filters import zero_or_write
from nbdfork.filters._values import probability
from nbdfork.plugin import Buffer, Export, Extent, Filter, FilterExport, Needs, Parameter, parse

_ERRORS = ("EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "ESHUTDOWN")  # all that NBD has


def _error_of(what: str) -> "Parameter[str | None]":
    return Parameter(
        parse.choice(*_ERRORS), metavar="|".join(_ERRORS), help=f"the error that {what} fail with"
    )


def _rate_of(what: str) -> "Parameter[float | None]":
    return Parameter(
        probability, metavar="RATE", help=f"how many {what} fail, as in 0.5, 50% or 1:2"
    )


def _file_of(what: str) -> "Parameter[str | None]":
    return Parameter(
        parse.path, metavar="FILENAME", help=f"{what} fail only while this file exists"
    )


class Error(Filter):
    """let requests fail"""

    error = _error_of("requests")
    error_rate = _rate_of("requests")
    error_file = _file_of("requests")
    error_pread = _error_of("reads")
    error_pread_rate = _rate_of("reads")
    error_pread_file = _file_of("reads")
    error_pwrite = _error_of("writes")
    error_pwrite_rate = _rate_of("writes")
    error_pwrite_file = _file_of("writes")
    error_trim = _error_of("trims")
    error_trim_rate = _rate_of("trims")
    error_trim_file = _file_of("trims")
    error_zero = _error_of("zeroes")
    error_zero_rate = _rate_of("zeroes")
    error_zero_file = _file_of("zeroes")
    error_extents = _error_of("requests for extents")
    error_extents_rate = _rate_of("requests for extents")
    error_extents_file = _file_of("requests for extents")
    error_cache = _error_of("requests to cache")
    error_cache_rate = _rate_of("requests to cache")
    error_cache_file = _file_of("requests to cache")

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        names = ("pread", "pwrite", "trim", "zero", "extents", "cache")
        faults = {name: self._fault(name) for name in names}
        return ErrorExport(next, faults) if any(one.rate for one in faults.values()) else next

    def _fault(self, operation: str) -> "Fault":
        """Return how *operation* fails: by its own settings, or else those for all."""
        name: str | None = getattr(self, f"error_{operation}") or self.error
        rate: float | None = getattr(self, f"error_{operation}_rate")
        if rate is None:
            rate = self.error_rate
        file: str | None = getattr(self, f"error_{operation}_file") or self.error_file
        return Fault(operation, name or "EIO", rate or 0.0, file)


class Fault(NamedTuple):
    """How often, with which error, and while which file exists an operation fails."""

    operation: str
    name: str
    rate: float
    file: str | None

    def strike(self) -> None:
        """Raise the error, if this is the time."""
        if random.random() < self.rate and (self.file is None or os.path.exists(self.file)):
            raise OSError(getattr(errno, self.name), f"the error filter lets {self.operation} fail")


class ErrorExport(FilterExport):
    """*next*, but each operation may fail before it is begun."""

    def __init__(self, next: Export, faults: dict[str, Fault]) -> None:
        super().__init__(next)
        self._faults = faults

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def pread(self, count: int, offset: int) -> Buffer:
        self._faults["pread"].strike()
        return self.next.pread(count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._faults["pwrite"].strike()
        self.next.pwrite(data, offset, flags)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._faults["trim"].strike()
        self.next.trim(count, offset, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._faults["zero"].strike()
        zero_or_write(self.next, count, offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self._faults["zero"].strike()
        self.next.write_zeroes(count, offset, flags)

    def extents(self, count: int, offset: int, flags: int) -> Iterable[Extent]:
        self._faults["extents"].strike()
        return self.next.extents(count, offset, flags)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterable[Extent]:
        self._faults["extents"].strike()
        return self.next.context_extents(context, count, offset, flags)

    def cache(self, count: int, offset: int) -> None:
        self._faults["cache"].strike()
        self.next.cache(count, offset)
