"""The reads and writes that one thread has under way at an NBD server.

What a lost connection has left unfinished is made again by the methods of the export, which connect
again.
"""

from collections.abc import Mapping
from types import ModuleType

from nbdfork.plugin import FUA, Ended, Pipeline, Unfinished, client

from .._link.buffers import SpareBuffers
from .._link.reconnecting import LinkLost, ReconnectingLink
from .remote import Begun, RemoteExport


class NbdPipeline(Pipeline):
    """What is under way through *link*, which nobody else uses but the same client's export."""

    def __init__(self, nbd: ModuleType, link: ReconnectingLink[RemoteExport]) -> None:
        self._fua = nbd.CMD_FLAG_FUA
        self._link = link
        self._client = client.departure()
        self._served = [link.current]  # and those it has replaced, until all has ended there
        self._merged: Mapping[int, int] = {}
        self._buffers = SpareBuffers()
        self._reads: dict[Begun, tuple[Ended, memoryview]] = {}
        self._writes: dict[Begun, tuple[Ended, bool]] = {}
        link.prepare = RemoteExport.take_turn
        link.current.take_turn()

    def current(self) -> RemoteExport:
        """Return the connection on which requests begin now."""
        return self._link.current

    def read(self, count: int, offset: int, ended: Ended) -> bool:
        remote = self._link.current
        if count > remote.facts.block_size.maximum:
            return False
        data = self._buffers.take(count)
        request = remote.begin_read(data, offset, self._client)
        if request is None:
            return False
        self._reads[request] = ended, data
        return True

    def write(self, data: memoryview, offset: int, flags: int, ended: Ended) -> bool:
        remote = self._link.current
        if len(data) > remote.facts.block_size.maximum:
            return False
        request = remote.begin_write(data, offset, self._fua if flags & FUA else 0, self._client)
        if request is None:
            return False
        self._writes[request] = ended, not flags & FUA
        return True

    def awaits(self) -> Mapping[int, int]:
        if self._served[-1] is not self._link.current:
            self._served.append(self._link.current)
        if len(self._served) == 1:
            return self._served[0].awaits()
        self._merged = {}
        for remote in self._served:
            self._merged |= remote.awaits()
        return self._merged

    def proceed(self, ready: Mapping[int, int]) -> None:
        for remote in self._served:
            remote.proceed(ready)
            while remote.ended:
                self._end(remote, remote.ended.popleft())
        if len(self._served) > 1:  # the others are lost: nothing more comes there
            self._served = self._served[-1:]

    def close(self) -> None:
        self._link.prepare = lambda link: None
        self._link.current.leave_turn()

    def _end(self, remote: RemoteExport, request: Begun) -> None:
        error: Exception | None = None
        try:
            remote.check(request)
            if request.check is not None:
                request.check()
        except LinkLost:
            error = Unfinished()
        except OSError as failure:
            error = self._link.named(failure)
        if (read := self._reads.pop(request, None)) is not None:
            ended, data = read
            ended(data if error is None else error)
            if error is None:
                self._buffers.give(data)
            return
        ended, is_counted = self._writes.pop(request)
        # Writes that say FUA need no later flush.
        if error is None and is_counted and not remote.count_write():
            self._link.count_loss()
        ended(error)
