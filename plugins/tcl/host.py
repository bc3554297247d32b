"""The program of the tcl plugin's helper: it speaks the protocol of nbdfork-host-plugin(3).

The first process is the template, which configures the script; its forks answer clients' requests.
Tcl is the one of Python's module tkinter, without Tk.
"""

import _tkinter
import errno
import os
import re
import select
import signal
import socket
import sys
from typing import NoReturn

from nbdfork.scripting.frames import (
    LOG_STDERR,
    NO_STDIO,
    NOTICE,
    NOTICE_DEBUG,
    NOTICE_SHUTDOWN,
    OPERATIONS,
    REPLY,
    REQUEST,
)

_HOST = os.path.join(os.path.dirname(__file__), "host.tcl")

_START, _WAIT = OPERATIONS["start"], OPERATIONS["wait"]
_NAMES = {number: f"::nbdforkhost::{name}" for name, number in OPERATIONS.items()}

_Request = tuple[int, int, int, int, int, bytes]
"""operation, handle, flags, count, offset, payload"""


class Closed(Exception):
    """The server or worker at the other end closed the connection."""


class Peer:
    """A connection to the server or to a worker of it."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def read_request(self) -> _Request:
        """Return the next request.  Raises `Closed`."""
        length, *fields = REQUEST.unpack(self._receive(REQUEST.size))
        operation, handle, flags, count, offset = fields
        return operation, handle, flags, count, offset, self._receive(length)

    def _receive(self, count: int) -> bytes:
        if not count:
            return b""
        try:
            data = self.stream.recv(count, socket.MSG_WAITALL)
        except ConnectionResetError as error:
            raise Closed from error
        if len(data) < count:
            raise Closed
        return data

    def reply(self, value: int = 0, payload: bytes = b"", error: int = 0) -> None:
        """Send an answer.  Raises `Closed`."""
        header = REPLY.pack(len(payload), error, value)
        try:
            sent = self.stream.sendmsg((header, payload))
            if sent < len(header) + len(payload):
                self.stream.sendall((header + payload)[sent:])
        except (BrokenPipeError, ConnectionResetError) as gone:
            raise Closed from gone


class TclInterpreter:
    """The Tcl interpreter that runs the script at *path*."""

    has_forked = False

    def __init__(self, path: str) -> None:
        self._path = path
        self._process = os.getpid()
        self._peer: Peer
        self._tcl = _tkinter.create(None, "nbdfork", "Nbdfork", False, True, False, False, None)
        verbose = os.environ["NBDFORK_VERBOSE"] == "1"
        for command in (self._notify, _errno_of, _end_process):
            name = command.__name__.removeprefix("_")
            self._tcl.createcommand(f"::nbdforkhost::{name}", command)
        self._tcl.call("source", _HOST)
        self._tcl.call("::nbdforkhost::start", path, verbose)

    def serve(self) -> None:
        """Become the interpreter of a fork, with random numbers of its own."""
        self._process = os.getpid()
        self._tcl.call("::nbdforkhost::serve")

    def answer(self, peer: Peer) -> None:
        """Answer one request.  Raises `Closed`."""
        operation, handle, flags, count, offset, payload = peer.read_request()
        self._peer = peer
        try:
            result = self._tcl.call(
                "::nbdforkhost::perform", _NAMES[operation], handle, payload, flags, count, offset
            )
        except _tkinter.TclError as error:
            self._leave_if_child(1)
            text = self._described(str(error))
            peer.reply(0, text, int(self._tcl.call("::nbdforkhost::error_of_callback")))
        else:
            self._leave_if_child(0)
            if isinstance(result, bytes):
                peer.reply(0, result)
            else:
                peer.reply(result if isinstance(result, int) else int(str(result) or 0))

    def _notify(self, kind: str, text: str = "") -> None:
        number = NOTICE_DEBUG if kind == "debug" else NOTICE_SHUTDOWN
        self._peer.reply(number, text.encode(errors="surrogateescape"), NOTICE)

    # -- errors -------------------------------------------------------------------------

    def _described(self, text: str) -> bytes:
        """Return "SCRIPT:LINE: TEXT"."""
        line = self._line(str(self._tcl.call("set", "::errorInfo")))
        where = f"{self._path}:{line}: " if line else ""
        return f"{where}{text}".encode(errors="surrogateescape")

    def _line(self, trace: str) -> int | None:
        """Return the line where the script failed, if *trace* says so.

        Tcl counts lines from where the body of a procedure begins.
        """
        for kind, name, line in re.findall(r'\((procedure|file) "(.*?)" line (\d+)\)', trace):
            if kind == "file" and name == self._path:
                return int(line)
            if kind == "procedure" and (first := self._line_of_procedure(name)):
                return first + int(line) - 1
        return None

    def _line_of_procedure(self, name: str) -> int | None:
        begins = re.compile(rf"\s*proc\s+(?:::)?{re.escape(name.removeprefix('::'))}\s.*\{{")
        with open(self._path, encoding="utf-8", errors="replace") as script:
            found = [n for n, line in enumerate(script, 1) if begins.match(line)]
        return found[-1] if found else None

    def _leave_if_child(self, status: int) -> None:
        """End a child process that the script forked: it must not go on as a server."""
        if os.getpid() != self._process:
            self._tcl.call("exit", status)

    # -- the end ------------------------------------------------------------------------

    def leave(self, *, is_fork: bool) -> NoReturn:
        """End the process.  Files are flushed once only, in the process that has the state."""
        one_process = self._tcl.call("::nbdforkhost::one_process")
        if is_fork == bool(one_process) or not self.has_forked:
            self._tcl.call("::nbdforkhost::flush_files")
        os._exit(0)


def _end_process(status: str) -> NoReturn:
    os._exit(int(status) & 0xFF)


def _errno_of(name: str) -> int:
    """Return the errno that *name*, a name or a number, stands for; 0 if it is neither."""
    number = int(name) if name.isdecimal() else getattr(errno, name, 0)
    return number if isinstance(number, int) else 0


class TemplateProcess:
    """The process that answers the server, and forks for each of its workers."""

    def __init__(self, interpreter: TclInterpreter) -> None:
        self._interpreter = interpreter
        self._listener = socket.socket(fileno=int(os.environ["NBDFORK_SOCKET"]))
        self._log = int(os.environ["NBDFORK_LOG"])
        os.set_inheritable(self._listener.fileno(), False)
        os.set_inheritable(self._log, False)
        self._forks: dict[int, int | None] = {}
        """The status of each fork, by pid; None while it runs."""

    def run(self) -> NoReturn:
        """Answer the server, and fork for its workers, until the server closes its connection."""
        control = Peer(self._listener.accept()[0])
        try:
            poll = select.poll()
            for stream in (control.stream, self._listener):
                poll.register(stream, select.POLLIN)
            while True:
                if control.stream.fileno() in dict(poll.poll()):
                    self._interpreter.answer(control)
                else:
                    self._serve_worker(control)
        except Closed:
            self._interpreter.leave(is_fork=False)

    def _serve_worker(self, control: Peer) -> None:
        worker = Peer(self._listener.accept()[0])
        try:
            operation, _, flags, _, offset, payload = worker.read_request()
            if operation == _START:
                self._start(control, worker, flags, payload)
            elif operation == _WAIT:
                worker.reply(self._status_of(offset))
        except Closed:
            pass  # the worker died
        finally:
            worker.stream.close()

    def _start(self, control: Peer, worker: Peer, flags: int, payload: bytes) -> None:
        try:
            self._become(flags, *payload.split(b"\0"))
        except OSError as error:
            worker.reply(0, str(error).encode(), error.errno or errno.EIO)
            return
        self._reap()
        self._interpreter.has_forked = True
        pid = os.fork()
        if pid:
            self._forks[pid] = None
            return
        for stream in (self._listener, control.stream):
            stream.close()
        os.close(self._log)
        self._serve_clients(worker)

    def _become(self, flags: int, directory: bytes, uid: bytes, gid: bytes, groups: bytes) -> None:
        os.chdir(directory)
        # These go to all processes of a terminal or service; what ends a fork is its connection.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        if flags & NO_STDIO:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.close(null)
        if flags & LOG_STDERR:
            os.dup2(self._log, 2)
        if (int(uid), int(gid)) != (os.geteuid(), os.getegid()):
            os.setgroups([int(group) for group in groups.split()])
            os.setgid(int(gid))
            os.setuid(int(uid))

    def _serve_clients(self, worker: Peer) -> NoReturn:
        os.setpgid(0, 0)  # it may be killed with all that the script has started
        try:
            self._interpreter.serve()
            worker.reply(os.getpid())
            while True:
                self._interpreter.answer(worker)
        except Closed:
            self._interpreter.leave(is_fork=True)

    def _reap(self) -> None:
        """Collect forks that have ended, because nobody asks for those whose worker was killed."""
        for pid in [pid for pid, status in self._forks.items() if status is None]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._forks[pid] = status

    def _status_of(self, pid: int) -> int:
        status = self._forks.pop(pid)
        return os.waitpid(pid, 0)[1] if status is None else status


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    TemplateProcess(TclInterpreter(sys.argv[1])).run()
