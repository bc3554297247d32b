"""The handshake: from the greeting to an open export, oldstyle or fixed newstyle.

An option is one entry of the `_OPTIONS` table; an option without an entry is answered with
"unsupported", as the protocol wants it.  Rules are cited by their headings in the protocol
document, "Fixed newstyle negotiation" and "Option types".
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from nbdfork.plugin.backend import Backend, UnknownExport
from nbdfork.plugin.export import BlockSize
from nbdfork.plugin.gate import Gate
from nbdfork.protocol import wire
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import ProtocolError
from nbdfork.protocol.transmission import transmission_flags
from nbdfork.types import Buffer

log = logging.getLogger(__name__)

MAX_OPTION_DATA = 64 * 1024
"""The longest option that is looked at; a legitimate one is a few KiB."""

MAX_OPTION_DISCARD = 64 * 1024 * 1024
"""A longer option than this ends the connection; nbdkit's limit."""

MAX_OPTIONS = 32
"""How many options a client may send, and as many again for each export it was shown, since
it may want to ask about every one; nbdkit's limit."""


class _Invalid(Exception):
    """The option's data are malformed."""


class _Reply(NamedTuple):
    """The final reply to an option."""

    type: int
    text: str = ""


def oldstyle(channel: Channel, backend: Backend) -> Gate:
    """Greet the client in the old style: it is told the size, and has no say."""
    try:
        gate = backend.open(backend.canonical_name(""))
    except (OSError, UnknownExport) as error:
        log.error("the export cannot be opened: %s", error)
        raise ProtocolError("the oldstyle protocol cannot report an error") from error
    channel.put(
        wire.OLDSTYLE_GREETING.pack(
            wire.INIT_MAGIC, wire.OLDSTYLE_MAGIC, gate.size, 0, transmission_flags(gate)
        )
    )
    return gate


class Newstyle:
    """The fixed newstyle negotiation with one client."""

    def __init__(self, channel: Channel, backend: Backend) -> None:
        self._channel = channel
        self._backend = backend
        self._fixed = False
        self._no_zeroes = False
        self._options_left = MAX_OPTIONS
        self._name = ""
        self._gate: Gate | None = None  # of the last INFO: a GO must see the same facts

    @property
    def export_name(self) -> str:
        """The canonical name of the export that was chosen."""
        return self._name

    def negotiate(self) -> Gate | None:
        """Answer options until the client has chosen an export.

        Return None if it left instead.  Raises `ProtocolError` or `Disconnected`.
        """
        try:
            chosen = self._greet() and self._answer_options()
        except BaseException:
            self._close_gate()
            raise
        if not chosen:
            self._close_gate()
            return None
        return self._gate

    def _greet(self) -> bool:
        channel = self._channel
        offered = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
        channel.put(wire.NEWSTYLE_GREETING.pack(wire.INIT_MAGIC, wire.OPTION_MAGIC, offered))
        if not channel.receive(wire.CLIENT_FLAGS.size):
            return False  # only looked whether the port is open
        (flags,) = wire.CLIENT_FLAGS.unpack(channel.take(wire.CLIENT_FLAGS.size))
        if flags & ~(wire.FLAG_C_FIXED_NEWSTYLE | wire.FLAG_C_NO_ZEROES):
            raise ProtocolError(f"the client flags are {flags:#x}")
        self._fixed = bool(flags & wire.FLAG_C_FIXED_NEWSTYLE)
        self._no_zeroes = bool(flags & wire.FLAG_C_NO_ZEROES)
        return True

    def _answer_options(self) -> bool:
        """Return True when an export is chosen, False when the client has left."""
        while self._options_left:
            self._options_left -= 1
            if not self._channel.receive(wire.OPTION.size):
                return False
            magic, option, length = wire.OPTION.unpack(self._channel.take(wire.OPTION.size))
            if magic != wire.OPTION_MAGIC:
                raise ProtocolError(f"the option magic is {magic:#018x}")
            if not self._fixed and option != wire.OPT_EXPORT_NAME:
                raise ProtocolError(f"option {option} without the fixed newstyle protocol")
            if length > MAX_OPTION_DISCARD:
                raise ProtocolError(f"an option of {length} bytes")
            if option == wire.OPT_EXPORT_NAME:
                self._export_name(length)
                return True
            done = self._answer(option, length)
            if done is not None:
                return done
        raise ProtocolError("too many options")

    def _answer(self, option: int, length: int) -> bool | None:
        """Answer one option; return None if the negotiation goes on."""
        if length > MAX_OPTION_DATA:
            self._channel.discard(length)
            reply = _Reply(wire.REP_ERR_TOO_BIG, "the option is too long")
        else:
            data = bytes(self._channel.take(length))
            handler = _OPTIONS.get(option, Newstyle._unsupported)
            try:
                reply = handler(self, data)
            except _Invalid as error:
                reply = _Reply(wire.REP_ERR_INVALID, str(error))
        if reply.text:
            log.debug("option %d refused: %s", option, reply.text)
        self._reply(option, reply.type, reply.text.encode())
        self._channel.flush()
        if reply.type != wire.REP_ACK:
            return None
        return {wire.OPT_GO: True, wire.OPT_ABORT: False}.get(option)

    def _reply(self, option: int, reply_type: int, data: bytes) -> None:
        header = wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, reply_type, len(data))
        self._channel.put(header + data)

    # -- the options --------------------------------------------------------------------

    def _export_name(self, length: int) -> None:
        """EXPORT_NAME has no error reply: all that is left is to disconnect."""
        if length > wire.MAX_STRING:
            raise ProtocolError(f"an export name of {length} bytes")
        try:
            gate = self._open(_string(self._channel.take(length)))
        except (_Invalid, UnknownExport, OSError) as error:
            raise ProtocolError(f"EXPORT_NAME: {error!r}") from error
        reply = wire.EXPORT_NAME_REPLY.pack(gate.size, transmission_flags(gate))
        self._channel.put(reply if self._no_zeroes else reply + wire.EXPORT_NAME_PADDING)

    def _abort(self, data: bytes) -> _Reply:
        return _Reply(wire.REP_ACK)

    def _list(self, data: bytes) -> _Reply:
        _expect_empty(data)
        try:
            exports = self._backend.list_exports()
        except OSError as error:
            log.error("the exports cannot be listed: %s", error)
            return _Reply(wire.REP_ERR_PLATFORM, "the exports cannot be listed")
        self._options_left += MAX_OPTIONS * len(exports)
        for export in exports:
            name = export.name.encode()
            entry = wire.UINT32.pack(len(name)) + name + export.description.encode()
            self._reply(wire.OPT_LIST, wire.REP_SERVER, entry)
        return _Reply(wire.REP_ACK)

    def _info(self, data: bytes) -> _Reply:
        return self._info_or_go(wire.OPT_INFO, data)

    def _go(self, data: bytes) -> _Reply:
        return self._info_or_go(wire.OPT_GO, data)

    def _info_or_go(self, option: int, data: bytes) -> _Reply:
        name, wanted = _parse_info_request(data)
        try:
            gate = self._open(name)
        except UnknownExport:
            return _Reply(wire.REP_ERR_UNKNOWN, f"there is no export {name[:256]!r}")
        except OSError as error:
            log.error("the export %r cannot be opened: %s", name, error)
            reason = error.strerror or "see the server's log"
            return _Reply(wire.REP_ERR_UNKNOWN, f"the export cannot be opened: {reason}")
        # EXPORT goes first: qemu checks the size against a BLOCK_SIZE that came before it.
        size = wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, gate.size, transmission_flags(gate))
        self._reply(option, wire.REP_INFO, size)
        if wire.INFO_BLOCK_SIZE in wanted or gate.block_size != BlockSize():
            sizes = wire.INFO_BLOCK_SIZE_DATA.pack(wire.INFO_BLOCK_SIZE, *gate.block_size)
            self._reply(option, wire.REP_INFO, sizes)
        if wire.INFO_NAME in wanted:
            self._reply_text(option, wire.INFO_NAME, self._name)
        if wire.INFO_DESCRIPTION in wanted and gate.description:
            self._reply_text(option, wire.INFO_DESCRIPTION, gate.description)
        return _Reply(wire.REP_ACK)

    def _reply_text(self, option: int, info: int, text: str) -> None:
        self._reply(option, wire.REP_INFO, wire.UINT16.pack(info) + text.encode())

    def _not_offered(self, data: bytes) -> _Reply:
        _expect_empty(data)
        return _Reply(wire.REP_ERR_UNSUP, "not supported by this server")

    def _starttls(self, data: bytes) -> _Reply:
        _expect_empty(data)
        return _Reply(wire.REP_ERR_POLICY, "this server offers no TLS")

    def _set_meta_context(self, data: bytes) -> _Reply:
        raise _Invalid("structured replies have not been negotiated")

    def _unsupported(self, data: bytes) -> _Reply:
        return _Reply(wire.REP_ERR_UNSUP, "unknown option")

    # -- the export ---------------------------------------------------------------------

    def _open(self, name: str) -> Gate:
        canonical = self._backend.canonical_name(name)
        if self._gate is None or canonical != self._name:
            self._close_gate()
            self._gate = self._backend.open(canonical)
            self._name = canonical
        return self._gate

    def _close_gate(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None


_OPTIONS: dict[int, Callable[[Newstyle, bytes], _Reply]] = {
    wire.OPT_ABORT: Newstyle._abort,
    wire.OPT_LIST: Newstyle._list,
    wire.OPT_STARTTLS: Newstyle._starttls,
    wire.OPT_INFO: Newstyle._info,
    wire.OPT_GO: Newstyle._go,
    wire.OPT_STRUCTURED_REPLY: Newstyle._not_offered,
    wire.OPT_SET_META_CONTEXT: Newstyle._set_meta_context,
    wire.OPT_EXTENDED_HEADERS: Newstyle._not_offered,
}


def _expect_empty(data: bytes) -> None:
    if data:
        raise _Invalid(f"{len(data)} bytes of data where none belong")


def _string(data: Buffer) -> str:
    """Decode a string from a client: UTF-8, no NUL, at most `wire.MAX_STRING` bytes."""
    if len(data) > wire.MAX_STRING:
        raise _Invalid(f"a string of {len(data)} bytes")
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError:
        raise _Invalid("a string that is not UTF-8") from None
    if "\0" in text:
        raise _Invalid("a string with a NUL")
    return text


def _parse_info_request(data: bytes) -> tuple[str, set[int]]:
    """Parse the data of INFO and GO: name length, name, count, that many info types."""
    if len(data) < 6:
        raise _Invalid("the data are too short")
    (name_length,) = wire.UINT32.unpack_from(data)
    if name_length > len(data) - 6:
        raise _Invalid("the export name is longer than the data")
    name = _string(data[4 : 4 + name_length])
    infos = data[4 + name_length :]
    (count,) = wire.UINT16.unpack_from(infos)
    if len(infos) != 2 + 2 * count:
        raise _Invalid("the number of info types does not fit the data")
    return name, {wire.UINT16.unpack_from(infos, 2 + 2 * i)[0] for i in range(count)}
