"""An NBD server that misbehaves as no real one would: it answers as the test tells it to.

What the test does not tell it about, it does as it should: it serves one disk by fixed newstyle,
with structured replies and base:allocation, and reads nothing but what a client may send.
"""

import contextlib
import socket
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.harness import SECONDS, is_readable

GREETING = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0x3)
OPTION_REPLY = 0x3E889045565A9
SIMPLE_REPLY = 0x67446698
STRUCTURED_REPLY = 0x668E33EF

EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED, SET_META = 1, 2, 3, 6, 7, 8, 10
ACK, SERVER, INFO_REPLY, META_REPLY = 1, 2, 3, 4
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3
UNSUPPORTED, UNKNOWN = 1 << 31 | 1, 1 << 31 | 6

READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, ZERO, BLOCK_STATUS = 0, 1, 2, 3, 4, 5, 6, 7
DONE = 1
NONE, DATA, HOLE, STATUS, ERROR = 0, 1, 2, 5, 0x8001

FLAGS = 0x16D
"""Of the export: flush, FUA, trim, zeroes and many connections; it can be written."""

CONTEXT_ID = 7


class Asked(NamedTuple):
    """An option or a request of a client."""

    kind: int
    cookie: int
    offset: int
    length: int
    data: bytes
    """Of an option, what comes with it; of a WRITE, what is to be written."""


class Conversation:
    """A client, and what it is sent; after *limit* bytes that is cut, or is silence from then on.

    The default answers are methods, named for what they answer.
    """

    def __init__(self, server: "LyingNbd", client: socket.socket) -> None:
        self.server = server
        self.client = client
        self._input = client.makefile("rb")
        self._left = server.limit

    def send(self, data: bytes) -> None:
        """Send *data*, or as much as may be sent."""
        if self._left is None:
            self.client.sendall(data)
            return
        part, self._left = data[: self._left], self._left - min(self._left, len(data))
        self.client.sendall(part)
        if not self._left:
            if self.server.then_silent:
                self.be_silent()
            raise EOFError

    def send_for_ever(self, data: bytes) -> None:
        """Send *data* again and again, until the client goes."""
        while True:
            self.client.sendall(data)

    def be_silent(self) -> None:
        """Say nothing until the client goes."""
        while self.client.recv(65536):
            pass
        raise EOFError

    def pause(self, seconds: float) -> None:
        """Let *seconds* pass, unless the client goes before.  Raises EOFError if it does."""
        if is_readable(self.client.fileno(), seconds) and not self.client.recv(1):
            raise EOFError

    def hang_up(self) -> None:
        """End the connection."""
        raise EOFError

    def receive(self, count: int) -> bytes:
        """Return what the client sends.  Raises EOFError if it does not."""
        data = self._input.read(count)
        if len(data) < count:
            raise EOFError
        return data

    # -- the handshake -------------------------------------------------------------------

    def option_reply(self, asked: Asked, kind: int, data: bytes = b"") -> None:
        """Send a reply to an option."""
        self.send(struct.pack(">QIII", OPTION_REPLY, asked.kind, kind, len(data)) + data)

    def inform(self, asked: Asked, kind: int, data: bytes) -> None:
        """Send a piece of information about the export."""
        self.option_reply(asked, INFO_REPLY, struct.pack(">H", kind) + data)

    def greeting(self, asked: Asked) -> None:
        self.send(GREETING)

    def structured(self, asked: Asked) -> None:
        self.option_reply(asked, ACK)

    def meta(self, asked: Asked) -> None:
        context = struct.pack(">I", CONTEXT_ID) + b"base:allocation"
        self.option_reply(asked, META_REPLY, context)
        self.option_reply(asked, ACK)

    def go(self, asked: Asked) -> None:
        size = struct.pack(">QH", len(self.server.content), FLAGS)
        self.inform(asked, INFO_EXPORT, size)
        self.option_reply(asked, ACK)

    def list(self, asked: Asked) -> None:
        self.option_reply(asked, SERVER, struct.pack(">I", 4) + b"diskthe only one")
        self.option_reply(asked, ACK)

    def abort(self, asked: Asked) -> None:
        self.option_reply(asked, ACK)
        raise EOFError

    def other(self, asked: Asked) -> None:
        self.option_reply(asked, UNSUPPORTED)

    # -- requests ------------------------------------------------------------------------

    def simple(self, asked: Asked, error: int = 0, data: bytes = b"") -> None:
        """Send a simple reply."""
        self.send(struct.pack(">IIQ", SIMPLE_REPLY, error, asked.cookie) + data)

    def chunk(self, asked: Asked, kind: int, data: bytes, flags: int = DONE) -> None:
        """Send a chunk of a structured reply."""
        head = struct.pack(">IHHQI", STRUCTURED_REPLY, flags, kind, asked.cookie, len(data))
        self.send(head + data)

    def part(self, asked: Asked) -> bytes:
        """Return what a READ asks for."""
        return self.server.content[asked.offset : asked.offset + asked.length]

    def read(self, asked: Asked) -> None:
        self.chunk(asked, DATA, struct.pack(">Q", asked.offset) + self.part(asked))

    def read_simply(self, asked: Asked) -> None:
        self.simple(asked, 0, self.part(asked))

    def status(self, asked: Asked) -> None:
        self.chunk(asked, STATUS, struct.pack(">III", CONTEXT_ID, asked.length, 0))

    def write(self, asked: Asked) -> None:
        self.simple(asked)

    flush = trim = zero = cache = write

    def disconnect(self, asked: Asked) -> None:
        raise EOFError


Answer = Callable[[Conversation, Asked], None]

_OPTIONS = {
    ABORT: "abort",
    LIST: "list",
    INFO: "info",
    GO: "go",
    STRUCTURED: "structured",
    SET_META: "meta",
}
_REQUESTS = {
    READ: "read",
    WRITE: "write",
    DISCONNECT: "disconnect",
    FLUSH: "flush",
    TRIM: "trim",
    CACHE: "cache",
    ZERO: "zero",
    BLOCK_STATUS: "status",
}


class LyingNbd:
    """A server of *content* on a Unix domain socket; *answers*, by the names of the methods of
    `Conversation`, are given instead of its own.

    A connection is cut after *limit* bytes, or is silent from then on if *then_silent*.  A context
    manager.
    """

    def __init__(
        self,
        content: bytes,
        answers: Mapping[str, Answer] | None = None,
        *,
        limit: int | None = None,
        then_silent: bool = False,
    ) -> None:
        self.content = content
        self.limit = limit
        self.then_silent = then_silent
        self._answers = answers or {}
        self._clients: dict[socket.socket, threading.Thread] = {}
        self.connections = 0
        """How many there have been."""
        self.asked: Counter[str] = Counter()
        """How often each answer was asked for, by the name of the method."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="nbdfork-far")
        self.path = Path(self._directory.name) / "lying"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self._socket.close()
        for client, thread in self._clients.items():
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            thread.join(SECONDS)
            client.close()
        self._directory.cleanup()

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(client,))
                self._clients[client] = thread
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        conversation = Conversation(self, client)
        with contextlib.suppress(EOFError, OSError):
            self._handshake(conversation)
            while True:
                head = struct.unpack(">IHHQQI", conversation.receive(28))
                _, _, kind, cookie, offset, length = head
                data = conversation.receive(length) if kind == WRITE else b""
                asked = Asked(kind, cookie, offset, length, data)
                self._answer(conversation, _REQUESTS[kind], asked)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _handshake(self, conversation: Conversation) -> None:
        self._answer(conversation, "greeting", Asked(0, 0, 0, 0, b""))
        conversation.receive(4)
        kind = 0
        while kind != GO:
            _, kind, length = struct.unpack(">QII", conversation.receive(16))
            asked = Asked(kind, 0, 0, length, conversation.receive(length))
            self._answer(conversation, _OPTIONS.get(kind, "other"), asked)

    def _answer(self, conversation: Conversation, name: str, asked: Asked) -> None:
        self.asked[name] += 1
        answer = self._answers.get(name)
        if answer is not None:
            answer(conversation, asked)
        else:
            getattr(conversation, name, conversation.other)(asked)
