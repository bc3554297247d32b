"""The three dialects of the transmission phase: how requests arrive and replies are formed.

Which one is spoken is settled in the handshake.  The simple one has a fixed reply; in the
others a reply is one or more chunks, the last of which is marked DONE (protocol document,
"Structured replies" and "Extended headers").  Here is nothing but the layout.
"""

import errno
from collections.abc import Sequence
from typing import NamedTuple

from nbdfork.backend import Extent
from nbdfork.protocol import wire
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.texts import readable
from nbdfork.types import Buffer

_SUCCESS = wire.UINT32.pack(wire.SIMPLE_REPLY_MAGIC) + wire.UINT32.pack(0)


class Chunk(NamedTuple):
    """A part of a reply: its type, and a payload in two pieces; the second is what the disk has at
    *offset*.
    """

    type: int
    head: bytes
    data: Buffer = b""
    offset: int = 0


def content(extent: Extent, data: Buffer | None) -> Chunk:
    """Return the chunk for a part of what is read; without data, it is a hole."""
    if data is None:
        return Chunk(wire.REPLY_OFFSET_HOLE, wire.HOLE.pack(extent.offset, extent.length))
    return Chunk(wire.REPLY_OFFSET_DATA, wire.UINT64.pack(extent.offset), data, extent.offset)


class SimpleReplies:
    """What every client understands."""

    name = "simple replies"
    request = wire.REQUEST
    request_magic = wire.REQUEST_MAGIC
    has_chunks = False
    is_extended = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def success(self, cookie: bytes, offset: int) -> None:
        """Reply that a request without data to return was carried out."""
        self._channel.put(_SUCCESS + cookie)

    def data(self, cookie: bytes, offset: int, data: Buffer) -> None:
        """Reply to a READ with all its data."""
        self._channel.put_with_data(_SUCCESS + cookie, data, offset)

    def chunks(self, cookie: bytes, offset: int, chunks: Sequence[Chunk]) -> None:
        """Reply to a READ with all its data, in *chunks*, of which there is at least one."""
        first, *others = chunks
        self._channel.put_with_data(_SUCCESS + cookie, first.data, first.offset)
        for chunk in others:
            self._channel.put_with_data(b"", chunk.data, chunk.offset)

    def error(
        self, cookie: bytes, offset: int, error: int, text: str, done: int | None = None
    ) -> None:
        """Reply that a request failed: all of it, or after its first *done* bytes."""
        self._channel.put(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie))


class StructuredReplies(SimpleReplies):
    """READ and BLOCK_STATUS, and all errors, are answered by chunks."""

    name = "structured replies"
    has_chunks = True

    def data(self, cookie: bytes, offset: int, data: Buffer) -> None:
        count = len(data)
        if not count:
            self.chunks(cookie, offset, [Chunk(wire.REPLY_NONE, b"")])
            return
        self._channel.put_with_data(
            wire.DATA_CHUNK.pack(
                wire.STRUCTURED_REPLY_MAGIC,
                wire.REPLY_FLAG_DONE,
                wire.REPLY_OFFSET_DATA,
                cookie,
                8 + count,
                offset,
            ),
            data,
            offset,
        )

    def chunks(self, cookie: bytes, offset: int, chunks: Sequence[Chunk]) -> None:
        """Reply with *chunks*, of which there is at least one."""
        last = len(chunks) - 1
        for index, (kind, head, data, start) in enumerate(chunks):
            flags = wire.REPLY_FLAG_DONE if index == last else 0
            header = self._header(flags, kind, cookie, offset, len(head) + len(data))
            self._channel.put_with_data(header + head, data, start)

    def _header(self, flags: int, kind: int, cookie: bytes, offset: int, length: int) -> bytes:
        return wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, length)

    def error(
        self, cookie: bytes, offset: int, error: int, text: str, done: int | None = None
    ) -> None:
        message = readable(text, wire.MAX_ERROR_TEXT)
        payload = wire.ERROR.pack(error, len(message)) + message
        kind = wire.REPLY_ERROR
        if done is not None:
            kind = wire.REPLY_ERROR_OFFSET
            payload += wire.UINT64.pack(offset + done)
        self.chunks(cookie, offset, [Chunk(kind, payload)])

    def status(self, context: int, extents: Sequence[Extent]) -> Chunk:
        """Return the chunk that tells of *extents* in a metadata context.

        Raises OSError with EOVERFLOW if one has a type that this dialect has no room for.
        """
        if any(extent.type > wire.MAX_UINT32 for extent in extents):
            raise OSError(errno.EOVERFLOW, "the status only fits extended headers")
        numbers = [number for _, length, kind in extents for number in (length, kind)]
        payload = wire.UINT32.pack(context) + wire.numbers(numbers, wire.UINT32)
        return Chunk(wire.REPLY_BLOCK_STATUS, payload)


class ExtendedReplies(StructuredReplies):
    """All is answered by chunks, which repeat the offset of the request; lengths have 64 bits."""

    name = "extended headers"
    request = wire.EXTENDED_REQUEST
    request_magic = wire.EXTENDED_REQUEST_MAGIC
    is_extended = True

    def success(self, cookie: bytes, offset: int) -> None:
        self._channel.put(
            wire.EXTENDED_CHUNK.pack(
                wire.EXTENDED_REPLY_MAGIC,
                wire.REPLY_FLAG_DONE,
                wire.REPLY_NONE,
                cookie,
                offset,
                0,
            )
        )

    def data(self, cookie: bytes, offset: int, data: Buffer) -> None:
        count = len(data)
        if not count:
            self.success(cookie, offset)
            return
        self._channel.put_with_data(
            wire.EXTENDED_DATA_CHUNK.pack(
                wire.EXTENDED_REPLY_MAGIC,
                wire.REPLY_FLAG_DONE,
                wire.REPLY_OFFSET_DATA,
                cookie,
                offset,
                8 + count,
                offset,
            ),
            data,
            offset,
        )

    def _header(self, flags: int, kind: int, cookie: bytes, offset: int, length: int) -> bytes:
        return wire.EXTENDED_CHUNK.pack(
            wire.EXTENDED_REPLY_MAGIC, flags, kind, cookie, offset, length
        )

    def status(self, context: int, extents: Sequence[Extent]) -> Chunk:
        numbers = [number for _, length, kind in extents for number in (length, kind)]
        payload = wire.BLOCK_STATUS_EXT.pack(context, len(extents)) + wire.numbers(
            numbers, wire.UINT64
        )
        return Chunk(wire.REPLY_BLOCK_STATUS_EXT, payload)
