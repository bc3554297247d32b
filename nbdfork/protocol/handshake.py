"""The handshake: from the greeting to an open export, oldstyle or fixed newstyle.

An option is one entry of the `_OPTIONS` table; one without an entry is answered "unsupported", as
the protocol wants it.  Rules are cited by their headings in the protocol document.
"""

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from nbdfork.backend import BlockSize, client
from nbdfork.backend.errors import UnknownExport, cause, told
from nbdfork.backend.exports import Catalogue, Served
from nbdfork.backend.gate import Gate
from nbdfork.protocol import metacontexts, wire
from nbdfork.protocol.access import ABOUT_EXPORTS, Access, NotAdmitted, TlsNeeded
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import ProtocolError, Rejected
from nbdfork.protocol.optiondata import (
    Invalid,
    expect_empty,
    parse_info_request,
    parse_queries,
    string,
)
from nbdfork.protocol.replies import ExtendedReplies, SimpleReplies, StructuredReplies
from nbdfork.protocol.texts import NO_STRING, encoded, readable
from nbdfork.protocol.transmission import Session

if TYPE_CHECKING:
    from nbdfork.protocol.tls import Tls

log = logging.getLogger(__name__)

MAX_OPTION_DATA = 64 * 1024
"""The longest option that is looked at; a legitimate one is a few KiB."""

MAX_OPTION_DISCARD = 64 * 1024 * 1024
"""A longer option than this ends the connection; nbdkit's limit."""

MAX_OPTIONS = 32
"""How many options a client may send (nbdkit's limit); as many again for each export first shown.
Being shown one costs as much as an option, so nobody can have a long list made again and again."""


class Offer(NamedTuple):
    """What newstyle clients may have.

    *flags*: the handshake flags.  Without *extended_headers*, *structured_replies* or
    *meta_contexts* the options that ask for them are unknown.  *tls* is None if there is none.
    """

    flags: int = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
    extended_headers: bool = True
    structured_replies: bool = True
    meta_contexts: bool = True
    tls: "Tls | None" = None


class _Selection(NamedTuple):
    """The metadata contexts that were selected for an export, by their ids."""

    export: str
    contexts: dict[int, str]


class _Reply(NamedTuple):
    """The final reply to an option; with *tls*, that begins after it."""

    type: int
    text: str = ""
    tls: "Tls | None" = None


def oldstyle(channel: Channel, exports: Served, access: Access) -> Session:
    """Greet the client in the old style: it is told the size, and has no say."""
    try:
        access.check()
        name = exports.default()
        access.check(name)
        access.take(name)
        with channel.untimed():
            session = Session(exports.open(name))
    except NotAdmitted as error:
        raise Rejected(str(error)) from error
    except (OSError, UnknownExport) as error:
        if isinstance(error, OSError):  # of the other kind the log knows already
            log.error("the export cannot be opened: %s", cause(error))
        raise Rejected("the export cannot be opened") from error
    channel.put(
        wire.OLDSTYLE_GREETING.pack(
            wire.INIT_MAGIC, wire.OLDSTYLE_MAGIC, session.gate.size, 0, session.flags()
        )
    )
    return session


class Newstyle:
    """The fixed newstyle negotiation with one client."""

    def __init__(self, channel: Channel, exports: Served, offer: Offer, access: Access) -> None:
        self._channel, self._exports = channel, exports
        self._offer = offer
        self._access = access
        self._fixed = self._no_zeroes = self._has_listed = False
        self._options_left = MAX_OPTIONS
        self._is_secure = False  # TLS protects the connection
        self.lacked_tls = False  # it was refused something for that, and has not begun TLS since
        self._forget()

    def _forget(self) -> None:
        """Nothing is settled yet."""
        self._replies: type[SimpleReplies] = SimpleReplies
        self._selection = _Selection("", {})
        self._asked = self._name = ""  # the name that the client has given, and the canonical one
        self._catalogue = Catalogue(self._exports)
        self._gate: Gate | None = None  # of the last INFO: a GO must see the same facts

    def negotiate(self) -> Session | None:
        """Answer options until the client has chosen an export.

        Return None if it left instead.  Raises `ProtocolError` or `Disconnected`.
        """
        try:
            chosen = self._greet() and self._answer_options()
        except BaseException:
            self._close_gate()
            raise
        if not chosen or self._gate is None:
            self._close_gate()
            return None
        return self._session(self._gate)

    def _session(self, gate: Gate) -> Session:
        """Return what has been settled.  Contexts are those of one export, and of no other."""
        contexts = self._selection.contexts if self._selection.export == self._name else {}
        return Session(gate, self._name, self._replies, contexts)

    def _greet(self) -> bool:
        channel = self._channel
        offered = self._offer.flags
        channel.put(wire.NEWSTYLE_GREETING.pack(wire.INIT_MAGIC, wire.OPTION_MAGIC, offered))
        if not channel.receive(wire.CLIENT_FLAGS.size):
            return False  # only looked whether the port is open
        (flags,) = wire.CLIENT_FLAGS.unpack(channel.take(wire.CLIENT_FLAGS.size))
        if flags & ~offered:
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
            if option == wire.OPT_SET_META_CONTEXT:
                self._selection = _Selection("", {})
        else:
            reply = self._carry_out(option, bytes(self._channel.take(length)))
        if reply.text:
            log.debug("option %d refused: %s", option, reply.text)
        self._reply(option, reply.type, readable(reply.text, wire.MAX_STRING))
        self._channel.flush()
        if reply.type != wire.REP_ACK:
            return None
        if reply.tls is not None:
            self._begin_tls(reply.tls)
        return {wire.OPT_GO: True, wire.OPT_ABORT: False}.get(option)

    def _carry_out(self, option: int, data: bytes) -> _Reply:
        if self._channel.stopped and option != wire.OPT_ABORT:
            return _Reply(wire.REP_ERR_SHUTDOWN, "the server is shutting down")
        if option not in (wire.OPT_STARTTLS, wire.OPT_ABORT) and self._needs_tls():
            return _Reply(wire.REP_ERR_TLS_REQD, "this server demands TLS")
        try:
            if option in ABOUT_EXPORTS:
                self._access.check()
            handler = _OPTIONS.get(option)
            if handler is None or not self._is_offered(option):
                return _Reply(wire.REP_ERR_UNSUP, "this server does not know the option")
            return handler(self, data)
        except NotAdmitted as error:
            return _Reply(error.reply, str(error))
        except Invalid as error:
            return _Reply(wire.REP_ERR_INVALID, str(error))
        except UnknownExport as error:
            return _Reply(wire.REP_ERR_UNKNOWN, str(error))
        except OSError as error:
            log.error("the export %r cannot be opened: %s", self._asked, cause(error))
            return _Reply(wire.REP_ERR_UNKNOWN, f"the export cannot be opened: {told(error)}")

    def _is_offered(self, option: int) -> bool:
        offer = self._offer
        return {
            wire.OPT_EXTENDED_HEADERS: offer.extended_headers,
            wire.OPT_STRUCTURED_REPLY: offer.structured_replies,
            wire.OPT_LIST_META_CONTEXT: offer.meta_contexts,
            wire.OPT_SET_META_CONTEXT: offer.meta_contexts,
        }.get(option, True)

    def _reply(self, option: int, reply_type: int, data: bytes) -> None:
        header = wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, reply_type, len(data))
        self._channel.put(header + data)

    # -- the options --------------------------------------------------------------------

    def _export_name(self, length: int) -> None:
        """EXPORT_NAME has no error reply: all that is left is to disconnect."""
        if length > wire.MAX_STRING:
            raise ProtocolError(f"an export name of {length} bytes")
        if self._needs_tls():
            raise ProtocolError("the client does not use TLS, which this server demands")
        if self._replies.is_extended or self._channel.stopped:
            raise ProtocolError("EXPORT_NAME after EXTENDED_HEADERS, or while shutting down")
        try:
            self._access.check()
            gate = self._open(string(self._channel.take(length)))
        except Invalid as error:
            raise ProtocolError(f"EXPORT_NAME: {error}") from error
        except (UnknownExport, NotAdmitted) as error:
            raise Rejected(str(error)) from error
        except OSError as error:
            log.error("the export %r cannot be opened: %s", self._asked, cause(error))
            raise Rejected("the export cannot be opened") from error
        reply = wire.EXPORT_NAME_REPLY.pack(gate.size, self._session(gate).flags())
        self._channel.put(reply if self._no_zeroes else reply + wire.EXPORT_NAME_PADDING)

    def _abort(self, data: bytes) -> _Reply:
        return _Reply(wire.REP_ACK)

    def _list(self, data: bytes) -> _Reply:
        expect_empty(data)
        try:
            exports = self._access.shown(self._catalogue.listed())
        except OSError as error:
            log.error("the exports cannot be listed: %s", cause(error))
            return _Reply(wire.REP_ERR_PLATFORM, f"the exports cannot be listed: {told(error)}")
        self._grant_options(len(exports))
        for name, description in exports:
            sent = encoded(name)
            if sent is None:
                log.warning("the export %a is not listed: its name is %s", name, NO_STRING)
                continue
            entry = wire.UINT32.pack(len(sent)) + sent + readable(description, wire.MAX_STRING)
            self._reply(wire.OPT_LIST, wire.REP_SERVER, entry)
        return _Reply(wire.REP_ACK)

    def _grant_options(self, exports: int) -> None:
        """Let a client that was shown *exports* ask about each, and pay for being shown them."""
        if not self._has_listed:
            self._has_listed = True
            self._options_left += MAX_OPTIONS * exports
        self._options_left = max(0, self._options_left - exports)

    def _info(self, data: bytes) -> _Reply:
        return self._info_or_go(wire.OPT_INFO, data)

    def _go(self, data: bytes) -> _Reply:
        return self._info_or_go(wire.OPT_GO, data)

    def _info_or_go(self, option: int, data: bytes) -> _Reply:
        name, wanted = parse_info_request(data)
        gate = self._open(name)
        # EXPORT goes first: qemu checks the size against a BLOCK_SIZE that came before it.
        size = wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, gate.size, self._session(gate).flags())
        self._reply(option, wire.REP_INFO, size)
        if wire.INFO_BLOCK_SIZE in wanted or gate.block_size != BlockSize():
            sizes = wire.INFO_BLOCK_SIZE_DATA.pack(wire.INFO_BLOCK_SIZE, *gate.block_size)
            self._reply(option, wire.REP_INFO, sizes)
        if wire.INFO_NAME in wanted:
            self._reply_text(option, wire.INFO_NAME, self._name.encode())
        if wire.INFO_DESCRIPTION in wanted and gate.description:
            text = readable(gate.description, wire.MAX_STRING)
            self._reply_text(option, wire.INFO_DESCRIPTION, text)
        return _Reply(wire.REP_ACK)

    def _reply_text(self, option: int, info: int, text: bytes) -> None:
        self._reply(option, wire.REP_INFO, wire.UINT16.pack(info) + text)

    def _starttls(self, data: bytes) -> _Reply:
        expect_empty(data)
        if self._offer.tls is None:
            return _Reply(wire.REP_ERR_POLICY, "this server offers no TLS")
        if self._is_secure:
            raise Invalid("TLS is in use already")
        return _Reply(wire.REP_ACK, tls=self._offer.tls)

    def _structured_reply(self, data: bytes) -> _Reply:
        expect_empty(data)
        if self._replies.is_extended:
            return _Reply(wire.REP_ERR_EXT_HEADER_REQD, "extended headers are in use already")
        self._replies = StructuredReplies
        return _Reply(wire.REP_ACK)

    def _extended_headers(self, data: bytes) -> _Reply:
        expect_empty(data)
        if self._replies.is_extended:
            raise Invalid("extended headers are in use already")
        self._replies = ExtendedReplies
        return _Reply(wire.REP_ACK)

    def _list_meta_context(self, data: bytes) -> _Reply:
        name, queries = parse_queries(data)
        for context in metacontexts.listed(metacontexts.offered(self._open(name)), queries):
            self._reply_context(wire.OPT_LIST_META_CONTEXT, 0, context)
        return _Reply(wire.REP_ACK)

    def _set_meta_context(self, data: bytes) -> _Reply:
        self._selection = _Selection("", {})  # the old one is void even if this fails
        if not self._replies.has_chunks:
            raise Invalid("neither structured replies nor extended headers are in use")
        name, queries = parse_queries(data)
        contexts = metacontexts.selected(metacontexts.offered(self._open(name)), queries)
        for number, context in contexts.items():
            self._reply_context(wire.OPT_SET_META_CONTEXT, number, context)
        self._selection = _Selection(self._name, contexts)
        return _Reply(wire.REP_ACK)

    def _reply_context(self, option: int, number: int, name: str) -> None:
        self._reply(option, wire.REP_META_CONTEXT, wire.UINT32.pack(number) + name.encode())

    # -- TLS ----------------------------------------------------------------------------

    def _needs_tls(self) -> bool:
        tls = self._offer.tls
        self.lacked_tls = tls is not None and tls.required and not self._is_secure
        return self.lacked_tls

    def _begin_tls(self, tls: "Tls") -> None:
        """Nothing that was said in clear counts any more: anybody may have said it."""
        self._is_secure, self.lacked_tls = True, False
        protection = self._channel.secure(tls.context)
        if served := client.serving():
            served.protection = protection
        self._access.subject = protection.subject or None
        self._close_gate()
        self._forget()
        log.info("TLS: %s", protection.subject or "the client was asked for no certificate")

    # -- the export ---------------------------------------------------------------------

    def _open(self, name: str) -> Gate:
        self._asked = name
        canonical = self._catalogue.canonical_name(name)
        if encoded(canonical) is None:
            raise OSError(errno.EINVAL, f"the name of the default export is {NO_STRING}")
        self._access.check(canonical)
        if self._catalogue.needs_tls(canonical) and not self._is_secure:
            self.lacked_tls = True
            raise TlsNeeded("this export demands TLS")
        self._access.take(canonical)
        if self._gate is None or canonical != self._name:
            self._close_gate()
            with self._channel.untimed():
                self._gate = self._catalogue.open(canonical)
            if self._is_secure:
                self._gate.forgo_views()
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
    wire.OPT_STRUCTURED_REPLY: Newstyle._structured_reply,
    wire.OPT_LIST_META_CONTEXT: Newstyle._list_meta_context,
    wire.OPT_SET_META_CONTEXT: Newstyle._set_meta_context,
    wire.OPT_EXTENDED_HEADERS: Newstyle._extended_headers,
}
