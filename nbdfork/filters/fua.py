"""The fua filter: change what becomes of FUA and flushes, or flush when a client leaves."""

import errno
from collections.abc import Callable

from nbdfork.filters import zero_or_write
from nbdfork.plugin import (
    FUA,
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    Support,
    parse,
)

_MODES = ("none", "emulate", "native", "force", "pass", "discard")
_METAVAR = "|".join(_MODES)


_SUPPORT = {"none": Support.NONE, "emulate": Support.EMULATE}


class Fua(Filter):
    """change how FUA is honoured"""

    fua_mode = Parameter(
        parse.choice(*_MODES), metavar=_METAVAR, help="what becomes of FUA; none if not given"
    )
    fuamode = Parameter(parse.choice(*_MODES), metavar=_METAVAR, help="the same")
    flush_on_close = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="flush when a client leaves"
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        if self.fua_mode is not None and self.fuamode is not None:
            raise ConfigError("fua: fua-mode= and fuamode= are the same: give one of them")
        self._mode = self.fua_mode or self.fuamode or "none"

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        changes = next.can_write() and not read_only
        if changes and self._mode == "emulate" and not next.can_flush():
            raise OSError(errno.EINVAL, "fua-mode=emulate: the disk below cannot flush")
        if changes and self._mode in ("native", "force") and next.can_fua() is Support.NONE:
            raise OSError(
                errno.EINVAL, f"fua-mode={self._mode}: the disk below has neither FUA nor flush"
            )
        if self.flush_on_close and not next.can_flush():
            raise OSError(errno.EINVAL, "flush-on-close=true: the disk below cannot flush")
        return FuaExport(next, self._mode, self.flush_on_close)


class FuaExport(FilterExport):
    """*next* in one of the modes; it is flushed in the end if *flushes_last*."""

    def __init__(self, next: Export, mode: str, flushes_last: bool) -> None:
        super().__init__(next)
        self._mode = mode
        self._flushes_last = flushes_last
        self._below = next.can_fua()
        self._has_flush = mode in ("force", "discard")  # which then has nothing to do

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def can_fua(self) -> Support:
        if self._mode == "pass":
            return self._below
        return _SUPPORT.get(self._mode, Support.NATIVE)

    def can_flush(self) -> bool:
        return self._has_flush or self.next.can_flush()

    def flush(self) -> None:
        if not self._has_flush:
            self.next.flush()

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._do(lambda flags: self.next.pwrite(data, offset, flags), flags)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._do(lambda flags: self.next.trim(count, offset, flags), flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._do(lambda flags: zero_or_write(self.next, count, offset, flags), flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self._do(lambda flags: self.next.write_zeroes(count, offset, flags), flags)

    def _do(self, operation: Callable[[int], None], flags: int) -> None:
        if self._mode == "discard":
            operation(flags & ~FUA)
            return
        if self._mode == "force":
            flags |= FUA
        if flags & FUA and self._below is not Support.NATIVE:
            operation(flags & ~FUA)
            self.next.flush()
        else:
            operation(flags)

    def close(self) -> None:
        try:
            if self._flushes_last:
                self.next.flush()
        finally:
            self.next.close()
