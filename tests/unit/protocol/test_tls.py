"""TLS over a stream in memory: names, pieces, and the end."""

import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.protocol.tls import JOIN_SIZE, PIECE_SIZE, TlsStream, _name, _pieces
from tests.support.stream import Recorder


def distinguished(*parts: tuple[str, str]) -> dict[str, object]:
    return {"subject": tuple(((kind, value),) for kind, value in parts)}


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ((), ""),
        ((("commonName", "disk"),), "CN=disk"),
        ((("countryName", "DE"), ("organizationName", "D"), ("commonName", "x")), "CN=x,O=D,C=DE"),
        ((("commonName", "client, one"),), "CN=client\\, one"),
        ((("commonName", '+"\\<>;'),), 'CN=\\+\\"\\\\\\<\\>\\;'),
        ((("commonName", "#x "),), "CN=\\#x\\ "),
        ((("commonName", " x"),), "CN=\\ x"),
        ((("commonName", "a\0b"),), "CN=a\\00b"),
        ((("serialNumber", "7"),), "serialNumber=7"),
    ],
)
def test_names_are_written_as_in_rfc_4514(parts: tuple[tuple[str, str], ...], name: str) -> None:
    assert _name(distinguished(*parts), "subject") == name
    assert _name(distinguished(*parts), "issuer") == ""


def test_a_name_of_several_values() -> None:
    certificate = {"subject": ((("commonName", "a"), ("userId", "b")),)}
    assert _name(certificate, "subject") == "CN=a+UID=b"


@given(st.lists(st.integers(0, 3 * PIECE_SIZE), max_size=6))
def test_pieces_are_all_bytes_in_their_order(sizes: list[int]) -> None:
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    pieces = list(_pieces(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert all(0 < len(piece) <= PIECE_SIZE for piece in pieces)
    if sum(sizes) <= JOIN_SIZE:
        assert len(pieces) == -(-sum(sizes) // PIECE_SIZE)


def test_a_client_that_speaks_no_tls_is_told_so_and_refused() -> None:
    stream = Recorder(b"GET / HTTP/1.0\r\n\r\n")
    tls = TlsStream(stream, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(OSError, match=r"(?i)http request|wrong version number|unexpected"):
        tls.handshake(None)
    assert stream.sent[:1] in (b"\x15", b"")  # an alert


def test_a_client_that_leaves_in_the_handshake() -> None:
    tls = TlsStream(Recorder(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(ConnectionError, match="left during the TLS handshake"):
        tls.handshake(None)


def test_a_deadline_that_is_over() -> None:
    tls = TlsStream(Recorder(b"\x16"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(TimeoutError):
        tls.handshake(0.0)


def test_an_end_before_there_was_a_beginning() -> None:
    stream = Recorder()
    tls = TlsStream(stream, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    tls.shutdown(socket.SHUT_WR)
    tls.close()
    assert stream.calls == ["close"]
