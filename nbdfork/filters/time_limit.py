"""The time-limit filter: end clients that have been connected for too long."""

import errno
import time
from collections.abc import Callable

from nbdfork.filters._around import AroundExport, Request, T
from nbdfork.filters._values import seconds
from nbdfork.plugin import Export, Filter, Needs, Parameter, Server


class TimeLimit(Filter):
    """end clients that stay too long"""

    time_limit = Parameter(
        seconds, default=60.0, metavar="TIME", help="for how long a client may stay; 0: any time"
    )

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return TimedExport(next, self.time_limit, self.server) if self.time_limit else next


class TimedExport(AroundExport):
    """*next* for so many *seconds*; who asks for something after that is ended by the *server*."""

    def __init__(self, next: Export, seconds: float, server: Server) -> None:
        super().__init__(next)
        self._end = time.monotonic() + seconds
        self._server = server

    def around(self, request: Request, do: Callable[[], T]) -> T:
        if time.monotonic() > self._end:
            self._server.disconnect()
            raise OSError(errno.ESHUTDOWN, "time-limit: the time of this client is over")
        return do()
