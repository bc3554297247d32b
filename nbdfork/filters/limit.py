"""The limit filter: serve so many clients at the same time, and refuse others."""

import errno

from nbdfork.filters._slots import SharedSlots
from nbdfork.plugin import Export, Filter, FilterExport, Needs, Parameter, parse

_MOST = 2**20


class Limit(Filter):
    """serve so many clients at the same time"""

    limit = Parameter(
        parse.whole(0, _MOST), default=1, metavar="N", help="how many clients; 0: any number"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._slots = SharedSlots(self.limit)

    def preconnect(self, read_only: bool) -> None:
        if self.limit and self._slots.held() >= self.limit:
            raise self._refusal()
        self.next.preconnect(read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        if not self.limit:
            return super().open(export_name, read_only)
        number = self._slots.take()
        if number is None:  # of those that came at the same time, others were faster
            raise self._refusal()
        try:
            below = super().open(export_name, read_only)
        except BaseException:
            self._slots.give(number)
            raise
        return LimitedExport(below, self._slots, number)

    def _refusal(self) -> OSError:
        return OSError(errno.EBUSY, f"limit={self.limit}: so many clients are served already")


class LimitedExport(FilterExport):
    """*next*, for which a slot is held."""

    def __init__(self, next: Export, slots: SharedSlots, number: int) -> None:
        super().__init__(next)
        self._slots = slots
        self._number = number

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def close(self) -> None:
        try:
            self.next.close()
        finally:
            self._slots.give(self._number)
