"""Targets: what clients say, with a check that all they are told is well formed."""

import ssl
import struct
from collections.abc import Iterator

from nbdfork.plugin import Export, Plugin
from nbdfork.protocol import wire
from nbdfork.protocol.handshake import Offer
from nbdfork.protocol.tls import Tls
from tests.support.conversation import FIXED, chosen, converse, exports_of, option, queries

_SIZE = 65536
_RECORD = struct.Struct(">BBHIB")


class Memory(Plugin):
    """a disk for each client"""

    def open(self, export_name: str, read_only: bool) -> Export:
        if export_name not in ("", "disk"):
            raise FileNotFoundError(2, "no such disk")
        return Disk()


class Disk(Export):
    def __init__(self) -> None:
        self._data = bytearray(_SIZE)

    def get_size(self) -> int:
        return _SIZE

    def pread(self, count: int, offset: int) -> bytes:
        assert 0 <= offset <= offset + count <= _SIZE
        return bytes(self._data[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        assert 0 <= offset <= offset + len(data) <= _SIZE
        self._data[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass


_EXPORTS = exports_of(Memory())


def handshake(data: bytes) -> None:
    """A client hears the same whether it speaks all at once or byte by byte, and no exception."""
    whole = converse([data], _EXPORTS, Offer())
    assert whole[:18] == wire.NEWSTYLE_GREETING.pack(wire.INIT_MAGIC, wire.OPTION_MAGIC, 3)
    if len(data) <= 512:
        pieces = [data[at : at + 1] for at in range(len(data))]
        assert converse(pieces, _EXPORTS, Offer()) == whole


def oldstyle(data: bytes) -> None:
    """After the greeting, an oldstyle client hears nothing but simple replies."""
    told = converse([data], _EXPORTS)
    assert told[:8] == b"NBDMAGIC"
    assert len(told) >= 152


def client_hello(data: bytes) -> None:
    """A client that begins TLS with anything is turned away without an exception."""
    offer = Offer(tls=Tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), required=True))
    told = converse([FIXED + option(wire.OPT_STARTTLS), data], _EXPORTS, offer)
    assert wire.UINT64.pack(wire.OPTION_REPLY_MAGIC) in told


def simple_replies(data: bytes) -> None:
    """Each request has one simple reply."""
    asked = list(_requests(data, wire.REQUEST, wire.REQUEST_MAGIC))
    told = _transmission([], asked)
    for command, length in _kinds(data):
        magic, error, _ = wire.SIMPLE_REPLY.unpack_from(told)
        assert magic == wire.SIMPLE_REPLY_MAGIC
        told = told[16 + (length if command == wire.CMD_READ and not error else 0) :]
    assert not told


def structured_replies(data: bytes) -> None:
    """Each request has a good simple reply, or chunks of which the last alone is marked as that."""
    asked = list(_requests(data, wire.REQUEST, wire.REQUEST_MAGIC))
    _check_chunks(_transmission([wire.OPT_STRUCTURED_REPLY], asked), wire.CHUNK, len(asked))


def extended_headers(data: bytes) -> None:
    """Each request has chunks with its cookie, the last of which alone is marked as that."""
    asked = list(_requests(data, wire.EXTENDED_REQUEST, wire.EXTENDED_REQUEST_MAGIC))
    told = _transmission([wire.OPT_EXTENDED_HEADERS], asked)
    _check_chunks(told, wire.EXTENDED_CHUNK, len(asked))


def _kinds(data: bytes) -> list[tuple[int, int]]:
    """Return command and length of each request in *data*."""
    whole = len(data) // _RECORD.size * _RECORD.size
    return [
        (command % 12, length)
        for _, command, length, _, _ in _RECORD.iter_unpack(data[:whole])
        if command % 12 != wire.CMD_DISC
    ]


def _requests(data: bytes, header: struct.Struct, magic: int) -> Iterator[bytes]:
    """Yield the requests in *data*, each of which is a `_RECORD`: flags, command, ..."""
    whole = len(data) // _RECORD.size * _RECORD.size
    for number, record in enumerate(_RECORD.iter_unpack(data[:whole])):
        flags, command, length, offset, fill = record
        command %= 12
        if command == wire.CMD_DISC:
            continue
        cookie = struct.pack(">Q", number)
        packed = header.pack(magic, flags, command, cookie, offset, length)
        is_extended = magic == wire.EXTENDED_REQUEST_MAGIC
        with_data = command == wire.CMD_WRITE or (is_extended and flags & wire.CMD_FLAG_PAYLOAD_LEN)
        yield packed + (bytes([fill]) * length if with_data else b"")


def _transmission(dialect: list[int], requests: list[bytes]) -> bytes:
    """Return what a client hears after it has chosen an export."""
    start = [FIXED, *map(option, dialect)]
    if dialect:
        start.append(option(wire.OPT_SET_META_CONTEXT, queries("", wire.BASE_ALLOCATION)))
    start.append(option(wire.OPT_GO, chosen()))
    greeted = len(converse(start, _EXPORTS, Offer()))
    return converse([*start, b"".join(requests)], _EXPORTS, Offer())[greeted:]


def _check_chunks(told: bytes, header: struct.Struct, requests: int) -> None:
    cookies: list[bytes] = []
    done = True
    while told:
        if told[:4] == wire.UINT32.pack(wire.SIMPLE_REPLY_MAGIC) and header is wire.CHUNK:
            assert done
            assert told[4:8] == bytes(4)  # errors have chunks
            cookies.append(told[8:16])
            told = told[16:]
            continue
        magic, flags, kind, cookie, *_, length = header.unpack_from(told)
        assert magic in (wire.STRUCTURED_REPLY_MAGIC, wire.EXTENDED_REPLY_MAGIC)
        assert done or cookie == cookies[-1]
        assert len(told) >= header.size + length
        if kind & 0x8000:
            (size,) = struct.unpack_from(">H", told, header.size + 4)
            assert length in (6 + size, 14 + size)
        if done:
            cookies.append(cookie)
        done = bool(flags & wire.REPLY_FLAG_DONE)
        told = told[header.size + length :]
    assert done
    assert len(cookies) == len(set(cookies)) == requests
