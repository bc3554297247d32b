"""The multi-conn filter: let several connections of a client see the same disk after a flush.

To emulate this, a flush of one connection flushes all of them.  They are then all served by one
process, because a worker cannot flush what another one holds.
"""

import errno
from collections.abc import Callable
from threading import Lock

from nbdfork.filters._around import AroundExport, Kind, Request, T
from nbdfork.plugin import (
    FUA,
    Export,
    Filter,
    Needs,
    Parameter,
    Support,
    ThreadModel,
    parse,
)

_CHANGES = (Kind.WRITE, Kind.TRIM, Kind.ZERO)


class MultiConn(Filter):
    """let several connections see the same after a flush"""

    multi_conn_mode = Parameter(
        parse.choice("auto", "emulate", "disable", "plugin", "unsafe"),
        default="auto",
        metavar="auto|emulate|disable|plugin|unsafe",
        help="whether this is emulated, or only said",
    )
    multi_conn_track_dirty = Parameter(
        parse.choice("fast", "connection", "off"),
        default="connection",
        metavar="fast|connection|off",
        help="which flushes are left out because nothing was written",
    )
    multi_conn_exportname = Parameter(
        parse.boolean,
        default=False,
        metavar="BOOL",
        help="flush only connections to the same export name",
    )

    def needs(self) -> Needs:
        return Needs()

    def one_process(self) -> bool:
        return self.multi_conn_mode in ("auto", "emulate")

    def config_complete(self) -> None:
        self.lock = Lock()
        self.clients: list[MultiConnExport] = []

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        mode = self.multi_conn_mode
        if mode == "auto":
            mode = self._mode_for(next)
        if mode == "emulate" and not next.can_flush() and next.can_write() and not read_only:
            raise OSError(errno.EINVAL, "multi-conn-mode=emulate: the disk below cannot flush")
        return MultiConnExport(next, self, mode, export_name)

    def _mode_for(self, next: Export) -> str:
        if _strictest(self) is ThreadModel.SERIALIZE_CONNECTIONS:
            return "disable"
        if next.can_multi_conn():
            return "plugin"
        return "emulate" if next.can_flush() else "disable"


class MultiConnExport(AroundExport):
    """One connection.  It `is_dirty` if a flush of it may have something to do."""

    def __init__(self, next: Export, group: MultiConn, mode: str, name: str) -> None:
        super().__init__(next)
        self._group = group
        self._mode = mode
        self._track = group.multi_conn_track_dirty
        self.name = name
        self.is_dirty = False
        self._fua_below = next.can_fua()
        with group.lock:
            group.clients.append(self)

    def can_multi_conn(self) -> bool:
        if self._mode == "plugin":
            return self.next.can_multi_conn()
        return self._mode != "disable"

    def can_fua(self) -> Support:
        """FUA of one connection says nothing to the others: a flush follows."""
        if self._mode == "emulate" and self._fua_below is Support.NATIVE:
            return Support.EMULATE
        return self._fua_below

    def around(self, request: Request, do: Callable[[], T]) -> T:
        if request.kind is Kind.FLUSH:
            return do()
        result = do()
        if request.kind in _CHANGES and not request.flags & FUA:
            self._soil()
        elif request.kind in (Kind.READ, Kind.CACHE) and self._track == "connection":
            self.is_dirty = True  # it may have kept what others are going to change
        return result

    def _soil(self) -> None:
        self.is_dirty = True
        if self._track == "fast":
            for one in self._peers():
                one.is_dirty = True

    def _peers(self) -> list["MultiConnExport"]:
        """Return the connections that belong together, this one among them."""
        group = self._group
        with group.lock:
            return [
                one
                for one in group.clients
                if not group.multi_conn_exportname or one.name == self.name
            ]

    def flush(self) -> None:
        """Flush this connection, and when it is emulated all others."""
        if self._track == "fast":
            if self.is_dirty:
                for one in self._peers():
                    one.is_dirty = False
                self._flush_all()
            return
        self._flush_all()

    def _flush_all(self) -> None:
        for one in self._peers() if self._mode == "emulate" else [self]:
            if self._track != "connection" or one.is_dirty:
                one.is_dirty = False
                one.next.flush()

    def close(self) -> None:
        with self._group.lock:
            self._group.clients.remove(self)
        self.next.close()


def _strictest(plugin: Filter) -> ThreadModel:
    below = plugin.next
    model = plugin.thread_model()
    return min(model, _strictest(below) if isinstance(below, Filter) else below.thread_model())
