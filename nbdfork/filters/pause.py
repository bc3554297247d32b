"""The pause filter: stop requests for a while, and let them go on, by a word on a socket.

Every worker listens on the socket, in a thread, and any of them may be the one that is told.
Whether requests may go on is the state of an eventfd; those that are under way hold a lock
together, so who wants to know that there are none takes it alone.
"""

import fcntl
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from nbdfork.filters._around import AroundExport, Request, T
from nbdfork.plugin import ConfigError, Export, Filter, Needs, Parameter, Server, parse


class Pause(Filter):
    """stop requests for a while"""

    pause_control = Parameter(
        parse.path, required=True, metavar="SOCKET", help="the socket to say so"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._gate = Passage()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(self.pause_control)
            self._socket.listen()
        except OSError as error:
            text = f"pause: pause-control={self.pause_control}: {error.strerror or error}"
            raise ConfigError(text) from error
        self._socket.setblocking(False)

    def after_fork(self) -> None:
        threading.Thread(target=self._listen, name="pause", daemon=True).start()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return PausedExport(next, self._gate, self.server)

    def finish(self) -> None:
        with suppress(FileNotFoundError, AttributeError):
            self._socket.close()
            os.unlink(self.pause_control)

    def _listen(self) -> None:
        """Obey whoever connects, one after another, for as long as this worker is there."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        while True:
            waiting.poll()
            with suppress(OSError):  # another worker was faster, or who was there has left
                peer, _ = self._socket.accept()
                with peer:
                    while words := peer.recv(1):
                        peer.sendall(self._obey(words))

    def _obey(self, word: bytes) -> bytes:
        if word == b"p":
            self._gate.pause()
            return b"P"
        if word == b"r":
            self._gate.resume()
            return b"R"
        return b"X"


class Passage:
    """Where requests of all workers pass, unless it is shut."""

    def __init__(self) -> None:
        self._open = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # readable while open
        self._lock = os.memfd_create("nbdfork-pause", os.MFD_CLOEXEC)
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0  # requests of this process, which hold the file's lock together

    def is_open(self) -> bool:
        """Return whether requests may pass now."""
        waiting = select.poll()
        waiting.register(self._open, select.POLLIN)
        return bool(waiting.poll(0))

    def pause(self) -> None:
        """Let no request pass any more, and wait until none is under way."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._open)
        with self._changed:
            self._changed.wait_for(lambda: not self._inside)
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def resume(self) -> None:
        """Let requests pass again."""
        with self._changed:
            if not self.is_open():
                os.eventfd_write(self._open, 1)

    @contextmanager
    def passing(self, server: Server) -> Iterator[None]:
        """Wait until requests may pass, and be under way in what is within."""
        while not self._enter():
            server.wait(None, {self._open: select.POLLIN})
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> bool:
        with self._changed:
            if not self._inside:
                fcntl.lockf(self._lock, fcntl.LOCK_SH)
            self._inside += 1
        if self.is_open():  # whoever shuts it from now on waits for us
            return True
        self._leave()
        return False

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)
                self._changed.notify_all()


class PausedExport(AroundExport):
    """*next*, whose requests pass where they can be stopped."""

    def __init__(self, next: Export, passage: Passage, server: Server) -> None:
        super().__init__(next)
        self._passage = passage
        self._server = server

    def around(self, request: Request, do: Callable[[], T]) -> T:
        with self._passage.passing(self._server):
            return do()
