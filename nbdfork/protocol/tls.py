"""TLS over the stream of a client, from the protocol document's STARTTLS on.

The engine works on memory, so it neither reads nor writes a descriptor: a batch of records is
received with one system call and a batch of replies sent with one, it works on pipes too, and a
thread that waits for the client keeps none from answering it.
"""

import logging
import mmap
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from nbdfork.backend.client import Protection
from nbdfork.protocol.stream import Stream
from nbdfork.types import Buffer

log = logging.getLogger(__name__)

RECEIVE_SIZE = 256 * 1024
"""The most that is received at once, in bytes of records."""

PIECE_SIZE = 32 * 1024
"""So much is encrypted before it is sent: the client decrypts it while the next piece is made."""

JOIN_SIZE = 256 * 1024
"""Up to this size it is cheaper to copy replies together than to make a record of each."""


class Tls(NamedTuple):
    """What clients get of TLS; if *required*, nothing else before it."""

    context: ssl.SSLContext
    required: bool


class TlsStream:
    """A stream whose bytes are protected; see `socket.socket` for the meanings.

    One thread may receive while others send.
    """

    def __init__(self, stream: Stream, context: ssl.SSLContext) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._in_use = threading.Lock()  # the engine; never held while waiting for the client
        self._sending = threading.Lock()  # records leave in the order in which they were made
        self._records = memoryview(mmap.mmap(-1, RECEIVE_SIZE))
        self._timeout: float | None = None
        self.unread = 0  # bytes received that the engine may still hold, never too few
        self._has_ended = False  # the client has said that nothing more comes

    def handshake(self, deadline: float | None) -> Protection:
        """Agree with the client on how to go on, and return what is known of it then.

        Raises OSError, also if it does not come to an agreement, or not by *deadline* (of
        `time.monotonic`).
        """
        while True:
            try:
                self._engine.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._send_made()
                if not self._feed(deadline, 0):
                    raise ConnectionError("the client left during the TLS handshake") from None
            except ssl.SSLError:
                self._send_made()  # the alert that tells the client why
                raise
        self._send_made()
        log.debug("%s, %s", self._engine.version(), self._engine.cipher())
        certificate = self._engine.getpeercert() or {}
        return Protection(_name(certificate, "subject"), _name(certificate, "issuer"))

    # -- receiving ----------------------------------------------------------------------

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        deadline = self._deadline()
        while True:
            if self.unread:
                with self._in_use:
                    got = self._decrypt(buffer)
                if got or self._has_ended:
                    return got
            if not self._feed(deadline, flags):
                return 0

    def _decrypt(self, buffer: memoryview) -> int:
        """Fill *buffer* from what has been received, as far as there are whole records."""
        got = 0
        while got < len(buffer) and not self._has_ended:
            try:
                count = self._read_record(buffer[got:])
            except ssl.SSLWantReadError:
                self.unread = 0
                break
            self._has_ended = not count
            got += count
            # Asking when there is nothing raises, which is slow.
            if not self._incoming.pending and not self._engine.pending():
                self.unread = 0
                break
        return got

    def _read_record(self, buffer: memoryview) -> int:
        # A number is returned if there is a buffer, which the library's type stubs do not know.
        return cast(int, self._engine.read(len(buffer), buffer))

    def _feed(self, deadline: float | None, flags: int) -> bool:
        """Receive some of the client's records; return False if it has left."""
        if deadline is not None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._stream.settimeout(remaining)
        got = self._stream.recv_into(self._records, 0, flags)
        with self._in_use:
            self._incoming.write(self._records[:got])
            self.unread += got
        return got > 0

    # -- sending ------------------------------------------------------------------------

    def sendmsg(self, buffers: Iterable[Buffer], /) -> int:
        """Send all of *buffers*, and return how much that is."""
        total = 0
        with self._sending:
            for piece in _pieces(buffers):
                with self._in_use:
                    total += self._engine.write(piece)
                self._send_all()
        return total

    def _send_made(self) -> None:
        with self._sending:
            self._send_all()

    def _send_all(self) -> None:
        with self._in_use:
            records = memoryview(self._outgoing.read())
        while records:
            records = records[self._stream.sendmsg([records]) :]

    # -- limits and the end -------------------------------------------------------------

    def settimeout(self, value: float | None, /) -> None:
        self._timeout = value
        self._stream.settimeout(value)

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def shutdown(self, how: int, /) -> None:
        """SHUT_WR: tell the client, in a way that nobody else can, that nothing more will come."""
        if how == socket.SHUT_WR:
            try:
                with self._in_use:
                    self._engine.unwrap()
            except ssl.SSLError:
                pass  # it waits for the client's answer, or there is nothing to end
            self._send_made()
        self._stream.shutdown(how)

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self._stream.close()


def _pieces(buffers: Iterable[Buffer]) -> Iterator[memoryview]:
    """Yield the bytes of *buffers* in pieces of `PIECE_SIZE`, and not many smaller ones."""
    parts = list(buffers)
    if len(parts) > 1 and sum(map(len, parts)) <= JOIN_SIZE:
        parts = [b"".join(parts)]
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), PIECE_SIZE):
            yield view[start : start + PIECE_SIZE]


# -- names ----------------------------------------------------------------------------------

_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


def _name(certificate: Mapping[str, Any], field: str) -> str:
    """Return a distinguished name in the form of RFC 4514: the last part is written first."""
    parts = reversed(certificate.get(field, ()))
    return ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in parts
    )


def _escaped(value: str) -> str:
    value = re.sub(r'([,+"\\<>;])', r"\\\1", value).replace("\0", "\\00")
    value = re.sub(r"^[ #]", r"\\\g<0>", value)
    return re.sub(r" $", r"\\ ", value)
