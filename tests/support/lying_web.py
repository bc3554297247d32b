"""A web server that misbehaves as no real one would: it answers as the test tells it to.

What the test does not tell it about, it does as it should: it serves one file, whole or in parts.
"""

import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.support.harness import SECONDS

Fields = Mapping[str, str | None]
"""Header fields to be sent; those that are None are left out."""


class Asked(NamedTuple):
    """What a request was."""

    method: str
    path: str
    fields: Mapping[str, str]
    """Its header fields, whose names have small letters."""
    body: bytes


class Request(BaseHTTPRequestHandler):
    """A request to be answered by one call of `reply`, or of what comes after it."""

    protocol_version = "HTTP/1.1"
    server: "LyingWeb"
    body: bytes
    """What came with it."""

    def reply(self, status: int, body: bytes = b"", fields: Fields | None = None) -> None:
        """Send a reply; *fields* are added to Content-Length, or stand instead of it."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(fields or {})).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def part(self) -> tuple[int, int]:
        """Return the first and the last byte that the client asks for."""
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last)

    def send_part(self, fields: Fields | None = None, body: bytes | None = None) -> None:
        """Send the part asked for, as it should be but for *fields* and *body*."""
        first, last = self.part()
        content = self.server.content
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        part = content[first : last + 1] if body is None else body
        self.reply(206, part, self.server.fields | span | dict(fields or {}))

    def send_whole(self, fields: Fields | None = None) -> None:
        """Send the whole file; in reply to HEAD, what is told of it."""
        always = self.server.fields | {"Accept-Ranges": "bytes"}
        self.reply(200, self.server.content, always | dict(fields or {}))

    def cut_off(self) -> None:
        """Promise the part asked for, send half of it, and reset the connection."""
        first, last = self.part()
        count = last - first + 1
        half = self.server.content[first : first + count // 2]
        self.send_part({"Content-Length": str(count)}, half)
        at_once = b"\1\0\0\0\0\0\0\0"  # to linger for no time is a reset
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.close_connection = True

    def hang_up(self) -> None:
        """Close the connection without a reply."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def send_raw(self, *pieces: bytes, then_silent: bool = False) -> None:
        """Send *pieces* instead of a reply; then close the connection, or be silent."""
        for piece in pieces:
            self.wfile.write(piece)
        self.close_connection = True
        if then_silent:
            self.stay_silent()

    def stay_silent(self, seconds: float = SECONDS) -> bool:
        """Say nothing for so long, or until the server is closed; return whether it is."""
        self.close_connection = True
        return self.server.is_closed.wait(seconds)

    def send_for_ever(self, piece: bytes, pause: float = 0.0) -> None:
        """Send *piece* again and again, until the client has gone or the server is closed."""
        while not self.stay_silent(pause):
            self.wfile.write(piece)

    # -- called by the base class -------------------------------------------------------------

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fields = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append(Asked(self.command, self.path, fields, self.body))
        self.server.answers[self.command](self)

    do_HEAD = do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - names of the base

    def log_message(self, *_: object) -> None:
        pass


Answer = Callable[[Request], object]


def take(request: Request) -> None:
    """Say that all is well."""
    request.reply(204)


class LyingWeb(ThreadingHTTPServer):
    """A web server with *answers* to methods, by their names in small letters; a context manager.

    It serves *content*, with the header fields *fields*.  An answer may be replaced at any time.
    """

    daemon_threads = True

    def __init__(
        self, content: bytes, fields: Mapping[str, str] | None = None, /, **answers: Answer
    ) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.content = content
        self.fields: dict[str, str | None] = dict(fields or {})
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[Asked] = []
        self.answers: dict[str, Answer] = {
            "HEAD": Request.send_whole,
            "GET": Request.send_part,
            "PUT": take,
            "POST": take,
            "DELETE": take,
        }
        self.answers |= {method.upper(): answer for method, answer in answers.items()}
        self.is_closed = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def bodies(self, method: str) -> list[bytes]:
        """Return what came with the requests of *method* until now, in their order."""
        return [asked.body for asked in self.asked if asked.method == method]

    def count(self, method: str) -> int:
        """Return how many requests of *method* there have been, the one being answered too."""
        return len(self.bodies(method))

    def handle_error(self, *_: object) -> None:
        pass  # clients that go away are expected

    def __enter__(self) -> "LyingWeb":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


def first_times(count: int, bad: Answer, good: Answer = Request.send_part) -> Answer:
    """Return an answer that is *bad* the first *count* times, and *good* afterwards."""
    return in_turn(*[bad] * count, good)


def in_turn(*answers: Answer) -> Answer:
    """Return an answer that is each of *answers* once, and the last one from then on."""
    left = iter(answers[:-1])
    lock = threading.Lock()

    def answer(request: Request) -> None:
        with lock:
            now = next(left, answers[-1])
        now(request)

    return answer
