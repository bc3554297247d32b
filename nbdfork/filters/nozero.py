"""The nozero filter: hide the disk's own way of making zeroes, or a part of what it is told.

Writes are not touched, and neither is anything else.
"""

import errno

from nbdfork.filters import not_fast, zero_or_write
from nbdfork.plugin import (
    FAST_ZERO,
    MAY_TRIM,
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    Support,
    parse,
)

_MODES = "none|emulate|notrim|plugin"
_FAST_MODES = "none|slow|ignore|default"
_MODE = parse.choice(*_MODES.split("|"))
_FAST = parse.choice(*_FAST_MODES.split("|"))


class NoZero(Filter):
    """change how zeroes are made"""

    zeromode = Parameter(_MODE, metavar=_MODES, help="whether the disk's own way is used")
    zero_mode = Parameter(_MODE, metavar=_MODES, help="the same")
    fastzeromode = Parameter(
        _FAST, metavar=_FAST_MODES, help="what becomes of requests for fast zeroing"
    )
    fast_zero_mode = Parameter(_FAST, metavar=_FAST_MODES, help="the same")

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        for one, other in (("zeromode", "zero_mode"), ("fastzeromode", "fast_zero_mode")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                names = f"{one}= and {other.replace('_', '-')}="
                raise ConfigError(f"nozero: {names} are the same: give one of them")
        self._mode = self.zeromode or self.zero_mode or "none"
        self._fast = self.fastzeromode or self.fast_zero_mode or "default"

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        if self._mode in ("none", "emulate"):
            # A disk that cannot zero by itself is no exception: the server writes the zeroes.
            offer = self._mode == "emulate"
            return WrittenZeroes(next, offer, offer and self._fast != "none")
        if next.can_write() and not read_only and not next.can_zero():
            raise OSError(
                errno.EOPNOTSUPP,
                f"zeromode={self._mode}: the disk has no way of its own to make zeroes;"
                " use zeromode=emulate",
            )
        return ChangedZeroes(next, self._fast, may_trim=self._mode == "plugin")


class WrittenZeroes(FilterExport):
    """*next* without its `zero`.

    If *offer*, clients may ask for zeroes, and they are written; if *offer_fast*, they may ask
    whether it is fast: no.
    """

    def __init__(self, next: Export, offer: bool, offer_fast: bool) -> None:
        super().__init__(next)
        self._support = Support.EMULATE if offer else Support.NONE
        self._offer_fast = offer_fast

    def can_zero(self) -> Support:
        return self._support

    def can_fast_zero(self) -> bool:
        return self._offer_fast

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        super().write_zeroes(count, offset, flags)  # and not that of `next`, which sees writes

    def can_resize(self) -> bool:
        return self.next.can_resize()


class ChangedZeroes(FilterExport):
    """*next* with the flags of its `zero` changed."""

    def __init__(self, next: Export, fast: str, *, may_trim: bool) -> None:
        super().__init__(next)
        self._fast = fast
        self._may_trim = may_trim

    def can_fast_zero(self) -> bool:
        if self._fast == "default":
            return self.next.can_fast_zero()
        return self._fast != "none"

    def zero(self, count: int, offset: int, flags: int) -> None:
        if flags & FAST_ZERO and self._fast == "slow":
            raise not_fast()
        if self._fast == "ignore":
            flags &= ~FAST_ZERO
        if not self._may_trim:
            flags &= ~MAY_TRIM
        zero_or_write(self.next, count, offset, flags)

    def can_resize(self) -> bool:
        return self.next.can_resize()
