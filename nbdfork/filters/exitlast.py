"""The exitlast filter: stop the server when the last client has left."""

from nbdfork.filters._slots import SharedSlots
from nbdfork.plugin import Export, Filter, FilterExport, Needs, SharedCounter

_MOST = 2**20  # clients at the same time


class ExitLast(Filter):
    """stop the server after the last client"""

    def needs(self) -> Needs:
        return Needs(stop=True)

    def get_ready(self) -> None:
        self._clients = SharedSlots(_MOST)
        self._served = SharedCounter(name="served")

    def after_fork(self) -> None:
        # One that takes the place of a worker that was killed with the last client in it.
        if self._served.value:
            self.stop_if_last()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        number = self._clients.take()
        self._served.add()
        return LastExport(next, self, number)

    def leave(self, number: int | None) -> None:
        """One client has left."""
        if number is not None:
            self._clients.give(number)
        self.stop_if_last()

    def stop_if_last(self) -> None:
        """Stop the server if there is no client."""
        if not self._clients.held():
            self.server.stop()


class LastExport(FilterExport):
    """*next*, for a client that may be the last."""

    def __init__(self, next: Export, filter: ExitLast, number: int | None) -> None:
        super().__init__(next)
        self._filter = filter
        self._number = number

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def close(self) -> None:
        try:
            self.next.close()
        finally:
            self._filter.leave(self._number)
