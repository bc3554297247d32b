"""Targets: what processes of the server's own say that have gone mad: helpers, and workers."""

import errno
import socket
import struct
from typing import ClassVar, Unpack

from nbdfork.plugin import Buffer, Export, Plugin, ThreadModel
from nbdfork.protocol import wire
from nbdfork.protocol.handshake import Offer
from nbdfork.scripting.channel import HelperChannel, HelperGone
from nbdfork.scripting.export import ScriptExport
from nbdfork.scripting.frames import OPERATIONS
from nbdfork.scripting.script import RequestFields, Script
from nbdfork.server.scoreboard import Scoreboard
from tests.support.conversation import FIXED, chosen, converse, exports_of, option, queries

_REQUESTS = ((0, 64), (0, 512), (1, 512), (3, 0), (4, 4096), (5, 4096), (6, 4096), (7, 4096))
"""Commands and lengths."""


class _Answered(Script):
    """A script whose helper has said *replies* already, and says nothing more."""

    def __init__(self, replies: bytes) -> None:
        ours, self._theirs = socket.socketpair()
        self._theirs.sendall(replies[:60000])
        self._theirs.shutdown(socket.SHUT_WR)
        self._channel = HelperChannel(ours, lambda: None)
        super().__init__(self._channel, "script", frozenset(OPERATIONS))

    def call(
        self, callback: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        try:
            return super().call(callback, payload, **fields)
        except HelperGone as error:
            raise OSError(errno.EIO, str(error)) from None

    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        try:
            return super().pread(handle, count, offset)
        except HelperGone as error:
            raise OSError(errno.EIO, str(error)) from None

    def end(self) -> None:
        self._channel.close()
        self._theirs.close()


class _Scripted(Plugin):
    """a disk whose script says what the input has"""

    replies = b""
    scripts: ClassVar[list[_Answered]] = []

    def open(self, export_name: str, read_only: bool) -> Export:
        self.scripts.append(_Answered(self.replies))
        return ScriptExport(self.scripts[-1], 1, ThreadModel.PARALLEL)

    def end(self) -> None:
        while self.scripts:
            self.scripts.pop().end()


_PLUGIN = _Scripted()
_EXPORTS = exports_of(_PLUGIN)


def helper_replies(data: bytes) -> None:
    """Whatever a helper says, its client hears replies to options, and then whole chunks."""
    _PLUGIN.replies = data
    start = [FIXED, option(wire.OPT_STRUCTURED_REPLY)]
    start.append(option(wire.OPT_SET_META_CONTEXT, queries("", wire.BASE_ALLOCATION)))
    start.append(option(wire.OPT_GO, chosen()))
    requests = b"".join(
        wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, command, struct.pack(">Q", number), 0, length)
        + bytes(length if command == wire.CMD_WRITE else 0)
        for number, (command, length) in enumerate(_REQUESTS)
    )
    rest = converse([*start, requests], _EXPORTS, Offer())[18:]
    _PLUGIN.end()
    while rest[:8] == wire.UINT64.pack(wire.OPTION_REPLY_MAGIC):
        rest = rest[wire.OPTION_REPLY.size + wire.OPTION_REPLY.unpack_from(rest)[-1] :]
    while rest:
        if rest[:4] == wire.UINT32.pack(wire.SIMPLE_REPLY_MAGIC):
            rest = rest[wire.SIMPLE_REPLY.size :]
            continue
        magic, *_, length = wire.CHUNK.unpack_from(rest)
        assert magic == wire.STRUCTURED_REPLY_MAGIC
        assert len(rest) >= wire.CHUNK.size + length
        rest = rest[wire.CHUNK.size + length :]


_BOARD = Scoreboard(2)
_BOARD.claim(1)
_BOARD.claim(1)


def scoreboard(data: bytes) -> None:
    """A worker that writes anything to its slot is shown and counted, and changes no other slot."""
    before = _BOARD.entry(1)
    memory = _BOARD.share(range(1))
    memory.bytes[: len(data)] = data[: len(memory.bytes)]
    memory.close()
    assert isinstance(_BOARD.entry(0).client, str)
    assert isinstance(_BOARD.clients(range(2)), str)
    _BOARD.state(0)
    _BOARD.count_party(1)
    _BOARD.totals()
    _BOARD.free(range(1))
    _BOARD.totals()
    assert _BOARD.entry(1) == before
    assert _BOARD.claim(1) == range(1)
    assert _BOARD.entry(0).counters.requests == 0
