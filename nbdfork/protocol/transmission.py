"""The request loop: parse, check, dispatch, reply.

The hot path of the whole program.  All requests that one receive brought are answered with
one send (see `channel`).  Here is also the funnel from an exception to an NBD error: an
`OSError` fails its request with the nearest error of the protocol, anything else is a bug of
the plugin and fails it with EIO; neither ends the connection.  What the client is told is chosen
in `nbdfork.backend.errors`.
"""

import errno
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from nbdfork.backend import NOT_SUPPORTED, REQ_ONE, Extent, PartialError, Support
from nbdfork.backend.errors import PluginFailed, Refused, cause, told
from nbdfork.backend.gate import LARGE, Gate
from nbdfork.protocol import wire
from nbdfork.protocol.channel import BUFFER_SIZE, Channel
from nbdfork.protocol.errors import CutShort, ProtocolError
from nbdfork.protocol.meter import Holdings, Meter
from nbdfork.protocol.replies import Chunk, SimpleReplies, StructuredReplies, content
from nbdfork.types import Buffer

log = logging.getLogger(__name__)

MAX_PAYLOAD = 64 * 1024 * 1024
"""The largest READ or WRITE that is served, unless the export's own maximum is below
`GUARANTEED_PAYLOAD`; nbdkit's limit."""

GUARANTEED_PAYLOAD = 32 * 1024 * 1024
"""What a client may send without asking (protocol document, "Block size constraints")."""

MAX_DISCARD = 2 * MAX_PAYLOAD
"""A payload longer than this is not even read and dropped: its sender is disconnected."""

SPARSE_READ = 64 * 1024
"""A shorter READ is answered with data even if it reads a hole: to look for holes would take
longer than to send zeroes."""

_ANY_FLAG = 0xFFFF

Payload: TypeAlias = memoryview | None
"""The data of a WRITE, or other data that came with a request; None if there are none, or too
many, or no memory for them."""


Command: TypeAlias = Callable[[int, int, int, Payload], Buffer | list[Chunk] | None]
"""Takes flags, offset, length and payload; returns the data of a READ, or the chunks of a
reply, or None if there is nothing to return."""


class Session(NamedTuple):
    """What the handshake has settled.  *contexts* were selected by the client, by their ids."""

    gate: Gate
    name: str = ""
    replies: type[SimpleReplies] = SimpleReplies
    contexts: Mapping[int, str] = MappingProxyType({})

    def flags(self) -> int:
        """Return what the client is told about the export."""
        gate, replies = self.gate, self.replies
        offers = {
            wire.TRANSMIT_READ_ONLY: not gate.can_write,
            wire.TRANSMIT_SEND_FLUSH: gate.can_flush,
            wire.TRANSMIT_SEND_FUA: gate.fua is not Support.NONE,
            wire.TRANSMIT_ROTATIONAL: gate.is_rotational,
            wire.TRANSMIT_SEND_TRIM: gate.can_trim,
            wire.TRANSMIT_SEND_WRITE_ZEROES: gate.can_zero,
            wire.TRANSMIT_SEND_DF: replies.has_chunks,
            wire.TRANSMIT_SEND_FAST_ZERO: gate.can_fast_zero,
            wire.TRANSMIT_SEND_RESIZE: gate.can_resize,
            wire.TRANSMIT_CAN_MULTI_CONN: gate.can_multi_conn,
            wire.TRANSMIT_SEND_CACHE: gate.cache_support is not Support.NONE,
            wire.TRANSMIT_BLOCK_STATUS_PAYLOAD: replies.is_extended and bool(self.contexts),
        }
        return wire.TRANSMIT_HAS_FLAGS | sum(flag for flag, offered in offers.items() if offered)


class Transmission:
    """The transmission phase of one client."""

    _run: Callable[[], int] | None = None  # carries out those of the next requests that it can

    def __init__(self, channel: Channel, session: Session, meter: Meter) -> None:
        self._channel = channel
        self._meter = meter
        self._begin_batch = meter.set_busy
        self._bytes_read = self._bytes_written = self._errors = 0  # of the batch being answered
        self._gate = gate = session.gate
        self._unknown: tuple[int, Command] = (_ANY_FLAG, _unknown)
        self._contexts = session.contexts
        self._replies = session.replies(channel)
        self._reply_in_chunks = self._replies.chunks
        channel.read_again = self._read_again
        maximum = gate.max_payload
        self._pread = gate.pread
        self._max_payload = maximum if maximum < GUARANTEED_PAYLOAD else MAX_PAYLOAD
        self._small_payload = min(LARGE - 1, self._max_payload)
        self._least_sparse = min(SPARSE_READ, self._max_payload)
        self._holdings = Holdings(meter)
        gate.on_large_read = self._holdings.add
        fua = wire.CMD_FLAG_FUA if gate.fua is not Support.NONE else 0
        fast_zero = wire.CMD_FLAG_FAST_ZERO if gate.can_fast_zero else 0
        # A read-only export refuses to be changed, whatever the flags.
        any_flag = 0 if gate.can_write else _ANY_FLAG
        payload = wire.CMD_FLAG_PAYLOAD_LEN if session.replies.is_extended else 0
        # A command and the flags it may carry.  FUA is allowed on all once it is offered,
        # because clients are known to set it on odd ones (protocol document, "Command flags").
        self._commands: dict[int, tuple[int, Command]] = {
            wire.CMD_READ: (fua, self._read),
            wire.CMD_WRITE: (fua | payload | any_flag, self._write),
            wire.CMD_FLUSH: (fua, self._flush),
            wire.CMD_TRIM: (fua | any_flag, self._trim),
            wire.CMD_CACHE: (fua, self._cache),
            wire.CMD_WRITE_ZEROES: (
                fua | wire.CMD_FLAG_NO_HOLE | fast_zero | any_flag,
                self._write_zeroes,
            ),
            wire.CMD_BLOCK_STATUS: (fua | wire.CMD_FLAG_REQ_ONE | payload, self._block_status),
        }
        if gate.can_resize:
            self._commands[wire.CMD_RESIZE] = (fua, self._resize)
        if isinstance(self._replies, StructuredReplies):
            self._status_of = self._replies.status
            self._commands[wire.CMD_READ] = (fua | wire.CMD_FLAG_DF, self._read_sparse)

    def serve(self) -> None:
        """Answer requests until the client disconnects, politely or not.

        Raises `ProtocolError` for what cannot be answered, `CutShort` if the client left in the
        middle of a request, `Disconnected` if the connection failed between two of them.
        """
        channel = self._channel
        answer, run = self._answer, self._run
        size, unpack = self._replies.request.size, self._replies.request.unpack_from
        expected = self._replies.request_magic
        begin = self._begin_batch
        requests, began = 0, time.monotonic_ns()
        if channel.end - channel.start >= size:  # the first came with the end of the handshake
            begin(began)
        try:
            while True:
                if channel.end - channel.start < size:
                    if requests:
                        channel.flush()  # counting can wait until the client has its replies
                        self._count_batch(requests, began)
                        requests = 0
                    if not channel.receive(size):
                        return
                    began = time.monotonic_ns()
                    begin(began)
                if run is not None and (done := run()):
                    requests += done
                    continue
                magic, flags, command, cookie, offset, length = unpack(
                    channel.buffer, channel.start
                )
                channel.start += size
                if magic != expected:
                    raise ProtocolError(f"the request magic is {magic:#010x}")
                if command == wire.CMD_DISC:
                    return
                requests += 1
                if command == wire.CMD_WRITE or flags & wire.CMD_FLAG_PAYLOAD_LEN:
                    self._answer_with_payload(flags, command, cookie, offset, length)
                else:
                    answer(flags, command, cookie, offset, length, None)
        finally:
            self._count_batch(requests, began)

    def _count_batch(self, requests: int, began: int) -> None:
        """A batch that was received at *began* has been carried out, unless there was none."""
        if not requests:
            return
        # Threads may be at work on others: they are counted by operations that cannot be torn.
        bytes_read, self._bytes_read = self._bytes_read, 0
        bytes_written, self._bytes_written = self._bytes_written, 0
        errors, self._errors = self._errors, 0
        spent = time.monotonic_ns() - began
        self._meter.count(requests, bytes_read, bytes_written, errors, spent)

    def refuse(self) -> None:
        """Tell the client, whatever else it has asked for, that the server is going down."""
        self._commands = {}
        self._unknown = (_ANY_FLAG, _shutting_down)
        self.serve()

    def _answer(
        self,
        flags: int,
        command: int,
        cookie: bytes,
        offset: int,
        length: int,
        payload: Payload,
    ) -> None:
        """Carry out one request and queue its reply."""
        replies = self._replies
        try:
            allowed, operation = self._commands.get(command, self._unknown)
            if flags & ~allowed:
                raise Refused(errno.EINVAL, f"the flags {flags:#06x} are not allowed on it")
            result = operation(flags, offset, length, payload)
        except Exception as error:
            self._fail(error, flags, command, cookie, offset, length)
        else:
            if result is None:
                if payload is not None:
                    self._bytes_written += length
                replies.success(cookie, offset)
            elif isinstance(result, list):
                self._reply_in_chunks(cookie, offset, result)
                if command == wire.CMD_READ:
                    self._bytes_read += length
                    self._holdings.release()
            else:
                self._bytes_read += length
                replies.data(cookie, offset, result)

    def _fail(
        self, error: Exception, flags: int, command: int, cookie: bytes, offset: int, length: int
    ) -> None:
        """Reply that a request has failed with *error*."""
        code, text = _wire_error(error, command, flags, offset, length)
        done = error.done if isinstance(error, PartialError) and 0 <= error.done < length else None
        self._errors += 1
        self._holdings.release()
        self._replies.error(cookie, offset, code, text, done)

    def _answer_with_payload(
        self, flags: int, command: int, cookie: bytes, offset: int, length: int
    ) -> None:
        """Consume the data of a request, and carry it out."""
        if length <= self._small_payload and command == wire.CMD_WRITE:
            self._answer(flags, command, cookie, offset, length, self._channel.take(length))
            return
        payload = self._take_payload(command, flags, length)
        try:
            self._answer(flags, command, cookie, offset, length, payload)
        finally:
            self._forget(payload)

    def _forget(self, payload: Payload) -> None:
        """Give back the memory of a request that is over, whoever still refers to it."""
        if payload is not None:
            with suppress(BufferError):  # a plugin has made something of it that needs it
                payload.release()
        self._holdings.release()

    def _take_payload(self, command: int, flags: int, length: int) -> Payload:
        """Consume the data of a request that is no small WRITE; return None, having dropped them,
        if there are too many, or no memory for them.

        With compact headers only WRITE has data; PAYLOAD_LEN is then an invalid flag.
        """
        if command != wire.CMD_WRITE and not self._replies.is_extended:
            return None
        if length > MAX_DISCARD:
            raise ProtocolError(f"a payload of {length} bytes")
        if length > self._max_payload:
            self._channel.discard(length)
            return None
        try:
            if length > BUFFER_SIZE:
                return self._channel.take_large(length, self._holdings.add)
            payload = self._channel.take(length)
            if length >= LARGE:
                self._holdings.add(length)
            return payload
        except Refused:  # which is told for all clients in one place
            return None
        except OSError as error:  # no memory: the request fails, and the client can go on
            log.error("a payload of %d bytes: %s", length, cause(error))
            return None

    # -- the commands -------------------------------------------------------------------

    def _read(self, flags: int, offset: int, length: int, data: Payload) -> Buffer | list[Chunk]:
        if length <= self._small_payload:
            return self._pread(length, offset)
        if length > self._max_payload:
            raise Refused(errno.EINVAL, f"more than {self._max_payload} bytes in one request")
        return [content(Extent(offset, length, 0), self._pread(length, offset))]

    def _read_again(self, count: int, offset: int) -> Buffer:
        """Return a part of a READ whose reply has begun to leave: an error cannot be told."""
        try:
            return self._gate.read_again(count, offset)
        except Exception as error:
            _, text = _wire_error(error, wire.CMD_READ, 0, offset, count)
            raise CutShort(f"the disk failed while it was being sent: {text}") from error

    def _read_sparse(
        self, flags: int, offset: int, length: int, data: Payload
    ) -> Buffer | list[Chunk]:
        """As `_read`, but leave out the holes of a large range, unless the client says DF."""
        if length < self._least_sparse:
            return self._pread(length, offset)
        if flags & wire.CMD_FLAG_DF or length > self._max_payload:
            return self._read(flags, offset, length, data)
        parts = self._gate.pread_sparse(length, offset)
        if len(parts) == 1 and parts[0][1] is not None and length < LARGE:
            return parts[0][1]
        return [content(extent, part) for extent, part in parts]

    def _write(self, flags: int, offset: int, length: int, data: Payload) -> None:
        if data is None:
            if length <= self._max_payload:
                raise Refused(errno.ENOMEM, "there is no memory for the data at the moment")
            raise Refused(errno.EINVAL, f"more than {self._max_payload} bytes in one request")
        self._gate.pwrite(data, offset, bool(flags & wire.CMD_FLAG_FUA))

    def _flush(self, flags: int, offset: int, length: int, data: Payload) -> None:
        self._gate.flush()

    def _trim(self, flags: int, offset: int, length: int, data: Payload) -> None:
        self._gate.trim(length, offset, bool(flags & wire.CMD_FLAG_FUA))

    def _cache(self, flags: int, offset: int, length: int, data: Payload) -> None:
        self._gate.cache(length, offset)

    def _write_zeroes(self, flags: int, offset: int, length: int, data: Payload) -> None:
        self._gate.zero(
            length,
            offset,
            may_trim=not flags & wire.CMD_FLAG_NO_HOLE,
            fast=bool(flags & wire.CMD_FLAG_FAST_ZERO),
            fua=bool(flags & wire.CMD_FLAG_FUA),
        )

    def _resize(self, flags: int, offset: int, length: int, data: Payload) -> None:
        """The offset is the new size (protocol document, branch extension-resize)."""
        self._gate.resize(offset)

    def _block_status(self, flags: int, offset: int, length: int, data: Payload) -> list[Chunk]:
        contexts = self._contexts
        if not contexts:
            raise Refused(errno.EINVAL, "no metadata context was selected")
        if flags & wire.CMD_FLAG_PAYLOAD_LEN:
            length, contexts = self._filtered(data)
        one = REQ_ONE if flags & wire.CMD_FLAG_REQ_ONE else 0
        return [
            self._status_of(number, self._extents(name, length, offset, one))
            for number, name in contexts.items()
        ]

    def _extents(self, context: str, count: int, offset: int, flags: int) -> list[Extent]:
        if context == wire.BASE_ALLOCATION:
            return self._gate.extents(count, offset, flags)
        return self._gate.status(context, count, offset, flags)

    def _filtered(self, data: Payload) -> tuple[int, Mapping[int, str]]:
        """Parse the payload of a BLOCK_STATUS: the length, and the ids of contexts."""
        if data is None or len(data) < 12 or len(data) % 4:
            raise Refused(errno.EINVAL, "the payload is not a length and the ids of contexts")
        (length,) = wire.UINT64.unpack_from(data)
        ids = [number for (number,) in wire.UINT32.iter_unpack(data[8:])]
        if len(set(ids)) < len(ids) or not self._contexts.keys() >= set(ids):
            raise Refused(errno.EINVAL, "the payload names contexts that were not selected")
        return length, {number: self._contexts[number] for number in ids}


def _unknown(flags: int, offset: int, length: int, data: Payload) -> None:
    raise Refused(errno.EINVAL, "unknown command")


def _shutting_down(flags: int, offset: int, length: int, data: Payload) -> None:
    raise Refused(errno.ESHUTDOWN, "the server is shutting down")


def _wire_error(
    error: Exception, command: int, flags: int, offset: int, length: int
) -> tuple[int, str]:
    """Log *error* with its true cause; return what the client is told: the number and a text."""
    name = wire.COMMAND_NAMES.get(command, f"command {command}")
    request = f"{name} of {length} bytes at {offset}"
    if isinstance(error, Refused):
        log.debug("%s: refused: %s", request, error)
    elif isinstance(error, OSError):
        log.error("%s: %s", request, cause(error))
    else:
        failure = PluginFailed(error)
        log.error("%s: %s", request, failure.strerror, exc_info=error)
        error = failure
    text = told(error)
    if error.errno is None:
        return wire.EIO, text
    if error.errno in NOT_SUPPORTED and flags & wire.CMD_FLAG_FAST_ZERO:
        return wire.ENOTSUP, text
    if error.errno == errno.EOVERFLOW and flags & wire.CMD_FLAG_DF:
        return wire.EOVERFLOW, text
    return wire.WIRE_ERRORS.get(error.errno, wire.EINVAL), text
