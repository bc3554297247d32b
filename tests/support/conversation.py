"""Whole conversations with a connection, over a stream without a socket."""

import struct
from collections.abc import Callable, Iterable

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.exports import Exports
from nbdfork.backend.life import Life
from nbdfork.plugin import Plugin
from nbdfork.protocol import wire
from nbdfork.protocol.connection import Connection, Settings, Threads
from nbdfork.protocol.handshake import Offer
from tests.support.requests import Counted
from tests.support.stream import Recorder

FIXED = struct.pack(">I", 3)
"""The flags of a client: fixed newstyle, no zeroes."""


def option(number: int, data: bytes = b"") -> bytes:
    """Return an option of the handshake."""
    return wire.OPTION.pack(wire.OPTION_MAGIC, number, len(data)) + data


def counted(text: str) -> bytes:
    """Return *text* with its length in front."""
    return struct.pack(">I", len(text.encode())) + text.encode()


def chosen(name: str = "", *infos: int) -> bytes:
    """Return the data of INFO and GO."""
    return counted(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def queries(name: str, *contexts: str) -> bytes:
    """Return the data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    return counted(name) + struct.pack(">I", len(contexts)) + b"".join(map(counted, contexts))


def option_replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return what a server has answered after its greeting: (option, type, data) of each reply."""
    found, data = [], data[18:]
    while data[:8] == wire.UINT64.pack(wire.OPTION_REPLY_MAGIC):
        _, number, kind, length = wire.OPTION_REPLY.unpack_from(data)
        found.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def exports_of(plugin: Plugin, name: str | None = None) -> Exports:
    """Return what clients can have of *plugin*: all, or the export *name*."""
    chain = Chain(Layer("disk", plugin))
    chain.configure([])
    Life(chain).get_ready()
    return Exports(chain, name=name)


def converse(
    pieces: Iterable[bytes],
    exports: Exports,
    offer: Offer | None = None,
    on_export: Callable[[str], None] = lambda name: None,
    stream: Recorder | None = None,
) -> bytes:
    """Let a client say *pieces*, each of which is received by itself, and leave.

    Return all that it has been told.  Without an *offer* the oldstyle protocol is spoken.
    """
    stream = stream or Recorder()
    stream.pieces += [piece for piece in pieces if piece]
    settings = Settings(offer is not None, 10.0, offer or Offer(), threads=Threads(1), spins=False)
    Connection(stream, exports, settings, on_export, Counted()).serve()
    return stream.sent
