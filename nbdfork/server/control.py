"""The control socket: what an operator sees of a server, and orders.

It is served by a child of the supervisor, of which nothing that a client of the server does ever
depends: it maps the scoreboard for reading, and has none of the sockets of clients.  It speaks
HTTP/1.1 on a Unix domain socket, and gives orders to the supervisor as lines of JSON; only
processes of the server's user, and of root, get an answer.
"""

import gc
import json
import logging
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from nbdfork.server import linux
from nbdfork.server.errors import StartupError
from nbdfork.server.inheritance import show_in_ps
from nbdfork.server.scoreboard import Scoreboard

log = logging.getLogger(__name__)

MOST_ORDER = 65536
"""The longest message between the two processes, in bytes."""

Facts: TypeAlias = Mapping[str, Any]
"""What is told of a server and does not change while it runs."""

Order: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Carries out an order.  Its answer says by `error` why it cannot; None: it will come later."""

Serve: TypeAlias = Callable[[socket.socket, Scoreboard, Facts, "Desk"], None]
"""Serves the control socket, in the child, until the supervisor is gone."""


class Settings(NamedTuple):
    """How a server is controlled: on *listener*, whose socket file is at *path*, by what *serve*
    does, with *facts*.  *keep* is called in the process that does it, and returns the descriptors
    of the supervisor that this needs, too.
    """

    listener: socket.socket
    path: str
    serve: Serve
    facts: Facts
    keep: Callable[[], Iterable[int]] = tuple


def listen(path: str) -> socket.socket:
    """Return a socket that listens at *path*, for this user alone.

    One that a server has left there is replaced.  Raises `StartupError`.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if _is_left_behind(path):
            os.unlink(path)
        umask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise StartupError(f"--control {path}: {error.strerror or error}") from error
    return listener


def _is_left_behind(path: str) -> bool:
    """Return whether there is a socket of our user at *path*, and nobody who listens there."""
    try:
        status = os.lstat(path)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def _forget_others(kept: Iterable[int]) -> None:
    """Let no descriptor lead anywhere but those that are *kept*, and the standard streams.

    They are not closed: an object of the supervisor's that is still there could close its number
    again, which would then be that of something else.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd != null and fd not in kept:
            with suppress(OSError):  # the one that was used to list them
                os.fstat(fd)
                os.dup2(null, fd, inheritable=False)


class Desk:
    """The child's way to the supervisor, for one order at a time."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours

    def fileno(self) -> int:
        """Return a descriptor that is hung up when the supervisor is gone."""
        return self._ours.fileno()

    def order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Give an order; return the answer.  Raises EOFError if there is no supervisor."""
        try:
            self._ours.send(json.dumps(order).encode())
            data = self._ours.recv(MOST_ORDER)
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        answer: dict[str, Any] = json.loads(data)
        return answer


class Control:
    """The supervisor's side: the child, and the orders that come from it."""

    def __init__(
        self,
        settings: Settings,
        board: Scoreboard,
        carry_out: Order,
    ) -> None:
        self._settings = settings
        self._board = board
        self._carry_out = carry_out
        self.pid = 0
        self._ours: socket.socket | None = None

    def start(self) -> int:
        """Fork the child; return the descriptor that is readable when it gives an order."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        supervisor = os.getpid()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                self._become_child(theirs, supervisor)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        ours.setblocking(False)
        self._ours = ours
        return ours.fileno()

    def _become_child(self, theirs: socket.socket, supervisor: int) -> None:
        """In the child: never return to the supervisor's code."""
        try:
            for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(signum, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            listener, _, serve, facts, keep = self._settings
            _forget_others({theirs.fileno(), listener.fileno(), *keep()})
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            show_in_ps("control", "-control")
            gc.enable()
            if linux.die_with_parent(signal.SIGTERM, supervisor):
                serve(listener, self._board, facts, Desk(theirs))
        except BaseException:
            log.exception("the control socket is not served any more")
        finally:
            os._exit(0)

    @property
    def listening(self) -> int:
        """The descriptor of the socket that operators connect to."""
        return self._settings.listener.fileno()

    def fileno(self) -> int:
        """Return the descriptor that `start` has returned."""
        assert self._ours is not None
        return self._ours.fileno()

    # -- in the supervisor --------------------------------------------------------------

    def hear(self) -> bool:
        """Carry out an order; return False if the child is gone."""
        assert self._ours is not None
        try:
            data = self._ours.recv(MOST_ORDER)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            return False
        answer = self._carry_out(json.loads(data))
        if answer is not None:
            self.answer(answer)
        return True

    def answer(self, answer: Mapping[str, Any]) -> None:
        """Say what has become of an order."""
        if self._ours is not None:
            with suppress(OSError):  # the child is gone, or does not wait for it any more
                self._ours.send(json.dumps(answer).encode())

    def reap(self) -> None:
        """The child is gone: take note of its end, and close what led to it."""
        if self._ours is not None:
            self._ours.close()
            self._ours = None
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.pid = 0

    def stop(self) -> None:
        """End the child."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.reap()

    def close(self) -> None:
        """End the child, and listen no more; the socket file is removed."""
        self.stop()
        self._settings.listener.close()
        with suppress(OSError):
            os.unlink(self._settings.path)
