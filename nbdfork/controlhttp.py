"""HTTP/1.1 on the control socket: what can be asked for, and the orders that can be given.

It runs in a process of its own (`server.control`), and only there is it imported.
"""

import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import Any

import nbdfork
from nbdfork import status
from nbdfork.server.control import Desk, Facts
from nbdfork.server.scoreboard import Scoreboard

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 32
"""How many are served at once; others wait."""

MOST_BODY = 65536
FINISH_SECONDS = 1.0
REQUEST_SECONDS = 10.0
"""How long a connection may be silent."""

_CREDENTIALS = struct.Struct("3i")

VERBS = ("disconnect", "drain", "log-level", "reload")


class _Office:
    """What all connections share."""

    def __init__(self, board: Scoreboard, facts: Facts, desk: Desk) -> None:
        self._board = board
        self._facts = facts
        self._desk = desk
        self._turn = threading.Lock()

    def order(self, **order: Any) -> dict[str, Any]:
        """Give the supervisor an order; return its answer.  Without a supervisor, end."""
        with self._turn:
            try:
                return self._desk.order(order)
            except EOFError:
                os._exit(0)

    def status(self) -> dict[str, Any]:
        return status.document(self._board, self._facts, self.order(verb="state"))


def serve(listener: socket.socket, board: Scoreboard, facts: Facts, desk: Desk) -> None:
    """Serve *listener* until the supervisor is gone."""
    office = _Office(board, facts, desk)
    room = threading.Semaphore(MOST_CONNECTIONS)
    listener.setblocking(False)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(desk.fileno(), 0)  # for its end
    while True:
        room.acquire()
        if any(events & select.POLLHUP for _, events in poll.poll()):
            _let_finish(room)
            return
        try:
            connection, _ = listener.accept()
        except BlockingIOError:  # another program's process was faster
            room.release()
            continue
        except OSError as error:
            log.error("the control socket: %s", error)
            room.release()
            select.select([], [], [], 0.1)
            continue
        connection.setblocking(True)
        connection.settimeout(REQUEST_SECONDS)
        threading.Thread(target=_converse, args=(connection, office, room), daemon=True).start()


def _let_finish(room: threading.Semaphore) -> None:
    """Let answers that are on their way be sent: the supervisor has become another program."""
    deadline = time.monotonic() + FINISH_SECONDS
    for _ in range(MOST_CONNECTIONS - 1):  # one is held by our caller
        if not room.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return


def _converse(connection: socket.socket, office: _Office, room: threading.Semaphore) -> None:
    try:
        with connection:
            if _may_come_in(connection):
                _Handler(connection, office)
    except OSError:
        pass  # it is gone
    except Exception:
        log.exception("a connection to the control socket failed:")
    finally:
        room.release()


def _may_come_in(connection: socket.socket) -> bool:
    """Return whether the peer is of this user, or root."""
    size = _CREDENTIALS.size
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    if uid in (0, os.geteuid()):
        return True
    log.warning("process %d of user %d is refused at the control socket", pid, uid)
    return False


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = REQUEST_SECONDS
    server_version = f"nbdfork/{nbdfork.__version__}"
    sys_version = ""

    def __init__(self, connection: socket.socket, office: _Office) -> None:
        self._office = office
        super().__init__(connection, ("", 0), None)  # type: ignore[arg-type]

    def do_GET(self) -> None:  # a name of http.server
        path = self.path.partition("?")[0]
        page = _PAGES.get(path)
        if page is None:
            self._say(HTTPStatus.NOT_FOUND, {"error": f"there is nothing at {path}"})
        else:
            page(self)

    def do_POST(self) -> None:
        verb = self.path.removeprefix("/")
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            self.close_connection = True
            self._say(HTTPStatus.BAD_REQUEST, {"error": "the length of the body is wrong"})
            return
        body = self.rfile.read(int(length))
        try:
            order = json.loads(body) if body else {}
        except ValueError as error:
            self._say(HTTPStatus.BAD_REQUEST, {"error": f"the body is no JSON: {error}"})
            return
        if verb not in VERBS or not isinstance(order, dict):
            self._say(HTTPStatus.NOT_FOUND, {"error": f"the orders are: {', '.join(VERBS)}"})
            return
        answer = self._office.order(**{**order, "verb": verb})
        self._say(HTTPStatus.CONFLICT if "error" in answer else HTTPStatus.OK, answer)

    def _status(self) -> None:
        self._say(HTTPStatus.OK, self._office.status())

    def _page(self) -> None:
        page = resources.files(nbdfork).joinpath("statuspage.html").read_bytes()
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page)

    def _metrics(self) -> None:
        try:
            from nbdfork import metrics
        except ImportError as error:
            text = f"{error}: install nbdfork[metrics]"
            self._say(HTTPStatus.NOT_IMPLEMENTED, {"error": text})
            return
        kind, text_ = metrics.exposition(self._office.status())
        self._send(HTTPStatus.OK, kind, text_)

    def _say(self, code: HTTPStatus, value: Mapping[str, Any]) -> None:
        self._send(code, "application/json", json.dumps(value, indent=1).encode() + b"\n")

    def _send(self, code: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(f"control: {format}", *args)

    def address_string(self) -> str:
        return "control"


_PAGES: dict[str, Callable[[_Handler], None]] = {
    "/": _Handler._page,
    "/status": _Handler._status,
    "/metrics": _Handler._metrics,
}
