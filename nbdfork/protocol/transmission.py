"""The request loop: parse, check, dispatch, reply.

The hot path of the whole program.  All requests that one receive brought are answered with
one send (see `channel`).  Here is also the funnel from an exception to an NBD error: an
`OSError` fails its request with the nearest error of the protocol, anything else is a bug of
the plugin and fails it with EIO; neither ends the connection.
"""

import errno
import logging
from collections.abc import Callable
from typing import TypeAlias

from nbdfork.plugin.errors import NOT_SUPPORTED, Refused
from nbdfork.plugin.export import Support
from nbdfork.plugin.gate import Gate
from nbdfork.protocol import wire
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import ProtocolError
from nbdfork.types import Buffer

log = logging.getLogger(__name__)

MAX_PAYLOAD = 64 * 1024 * 1024
"""The largest READ or WRITE that is served, unless the export's own maximum is below
`GUARANTEED_PAYLOAD`; nbdkit's limit."""

GUARANTEED_PAYLOAD = 32 * 1024 * 1024
"""What a client may send without asking (protocol document, "Block size constraints")."""

MAX_DISCARD = 2 * MAX_PAYLOAD
"""A WRITE longer than this is not even read and dropped: its sender is disconnected."""

_ANY_FLAG = 0xFFFF
_HEADER_SIZE = wire.REQUEST.size
_SUCCESS = wire.UINT32.pack(wire.SIMPLE_REPLY_MAGIC) + wire.UINT32.pack(0)

Payload: TypeAlias = memoryview | None

Command: TypeAlias = Callable[[int, int, int, Payload], Buffer | None]
"""Takes flags, offset, length and the payload of a WRITE; returns the data of a READ."""


def transmission_flags(gate: Gate) -> int:
    """Return what the client is told about the export."""
    offers = {
        wire.TRANSMIT_READ_ONLY: not gate.can_write,
        wire.TRANSMIT_SEND_FLUSH: gate.can_flush,
        wire.TRANSMIT_SEND_FUA: gate.fua is not Support.NONE,
        wire.TRANSMIT_ROTATIONAL: gate.is_rotational,
        wire.TRANSMIT_SEND_TRIM: gate.can_trim,
        wire.TRANSMIT_SEND_WRITE_ZEROES: gate.can_zero,
        wire.TRANSMIT_SEND_FAST_ZERO: gate.can_fast_zero,
        wire.TRANSMIT_CAN_MULTI_CONN: gate.can_multi_conn,
        wire.TRANSMIT_SEND_CACHE: gate.cache_support is not Support.NONE,
    }
    return wire.TRANSMIT_HAS_FLAGS | sum(flag for flag, offered in offers.items() if offered)


class Transmission:
    """The transmission phase of one client."""

    def __init__(self, channel: Channel, gate: Gate) -> None:
        self._channel = channel
        self._gate = gate
        maximum = gate.block_size.maximum
        self._max_payload = maximum if maximum < GUARANTEED_PAYLOAD else MAX_PAYLOAD
        fua = wire.CMD_FLAG_FUA if gate.fua is not Support.NONE else 0
        fast_zero = wire.CMD_FLAG_FAST_ZERO if gate.can_fast_zero else 0
        # A read-only export refuses to be changed, whatever the flags.
        never_mind = 0 if gate.can_write else _ANY_FLAG
        # A command and the flags it may carry.  FUA is allowed on all once it is offered,
        # because clients are known to set it on odd ones (protocol document, "Command flags").
        self._commands: dict[int, tuple[int, Command]] = {
            wire.CMD_READ: (fua, self._read),
            wire.CMD_WRITE: (fua | never_mind, self._write),
            wire.CMD_FLUSH: (fua, self._flush),
            wire.CMD_TRIM: (fua | never_mind, self._trim),
            wire.CMD_CACHE: (fua, self._cache),
            wire.CMD_WRITE_ZEROES: (
                fua | wire.CMD_FLAG_NO_HOLE | fast_zero | never_mind,
                self._write_zeroes,
            ),
        }

    def serve(self) -> None:
        """Answer requests until the client disconnects, politely or not.

        Raises `ProtocolError` for what cannot be answered, `Disconnected` if the client left
        in the middle of a request.
        """
        channel = self._channel
        commands = self._commands
        unpack = wire.REQUEST.unpack_from
        while channel.end - channel.start >= _HEADER_SIZE or channel.receive(_HEADER_SIZE):
            magic, flags, command, cookie, offset, length = unpack(channel.buffer, channel.start)
            channel.start += _HEADER_SIZE
            if magic != wire.REQUEST_MAGIC:
                raise ProtocolError(f"the request magic is {magic:#010x}")
            if command == wire.CMD_DISC:
                return
            payload = self._take_payload(length) if command == wire.CMD_WRITE else None
            try:
                allowed, operation = commands.get(command, _UNKNOWN_COMMAND)
                if flags & ~allowed:
                    raise Refused(errno.EINVAL, f"the flags {flags:#06x} are not allowed on it")
                result = operation(flags, offset, length, payload)
            except Exception as error:
                code = _wire_error(error, command, flags, offset, length)
                channel.put(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, code, cookie))
            else:
                if result is None:
                    channel.put(_SUCCESS + cookie)
                else:
                    channel.put_with_data(_SUCCESS + cookie, result)

    def _take_payload(self, length: int) -> Payload:
        """Consume the payload of a WRITE; return None, having dropped it, if it is too long."""
        if length > MAX_DISCARD:
            raise ProtocolError(f"a WRITE of {length} bytes")
        if length <= self._max_payload:
            return self._channel.take(length)
        self._channel.discard(length)
        return None

    # -- the commands -------------------------------------------------------------------

    def _read(self, flags: int, offset: int, length: int, data: Payload) -> Buffer:
        if length > self._max_payload:
            raise Refused(errno.EINVAL, f"more than {self._max_payload} bytes in one request")
        return self._gate.pread(length, offset)

    def _write(self, flags: int, offset: int, length: int, data: Payload) -> None:
        if data is None:
            raise Refused(errno.EINVAL, f"more than {self._max_payload} bytes in one request")
        self._gate.pwrite(data, offset, bool(flags & wire.CMD_FLAG_FUA))

    def _flush(self, flags: int, offset: int, length: int, data: Payload) -> None:
        self._gate.flush()

    def _trim(self, flags: int, offset: int, length: int, data: Payload) -> None:
        self._gate.trim(length, offset, bool(flags & wire.CMD_FLAG_FUA))

    def _cache(self, flags: int, offset: int, length: int, data: Payload) -> None:
        self._gate.cache(length, offset)

    def _write_zeroes(
        self, flags: int, offset: int, length: int, payload: memoryview | None
    ) -> None:
        self._gate.zero(
            length,
            offset,
            may_trim=not flags & wire.CMD_FLAG_NO_HOLE,
            fast=bool(flags & wire.CMD_FLAG_FAST_ZERO),
            fua=bool(flags & wire.CMD_FLAG_FUA),
        )


def _unknown(flags: int, offset: int, length: int, data: Payload) -> None:
    raise Refused(errno.EINVAL, "unknown command")


_UNKNOWN_COMMAND: tuple[int, Command] = (_ANY_FLAG, _unknown)


def _wire_error(error: Exception, command: int, flags: int, offset: int, length: int) -> int:
    """Log *error* with its true cause and return the error number that the client is told."""
    name = wire.COMMAND_NAMES.get(command, f"command {command}")
    request = f"{name} of {length} bytes at {offset}"
    if isinstance(error, Refused):
        log.debug("%s: refused: %s", request, error)
    elif isinstance(error, OSError):
        log.error("%s: %s", request, error)
    else:
        log.error("%s: a bug of the plugin:", request, exc_info=error)
        return wire.ENOMEM if isinstance(error, MemoryError) else wire.EIO
    if error.errno is None:
        return wire.EIO
    if error.errno in NOT_SUPPORTED and flags & wire.CMD_FLAG_FAST_ZERO:
        return wire.ENOTSUP
    return wire.WIRE_ERRORS.get(error.errno, wire.EINVAL)
