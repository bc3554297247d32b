"""How a process that serves clients is stopped by a signal."""

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol


class Servable(Protocol):
    """A connected client, as the server wing sees it."""

    def serve(self) -> None:
        """Serve it until it leaves."""

    def stop(self) -> None:
        """From a signal handler: make `serve` answer what has been received and return."""


class Stopper:
    """What a stop signal does: clients being served are stopped, and no other is begun.

    `ending` is a descriptor that is readable from then on, or once the process ends for another
    reason.  It becomes so in the signal handler of the interpreter, which does not have to wait for
    the main thread as Python's handlers do.
    """

    def __init__(self, on_stop: Callable[[], None] = lambda: None) -> None:
        """*on_stop* is called by the signal handler, before the clients are told."""
        self._on_stop = on_stop
        self.stopped = False
        self.ending, self._end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._clients: set[Servable] = set()

    def install(self, signals: Iterable[signal.Signals]) -> None:
        """Let *signals* stop this process."""
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        for signum in signals:
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: object) -> None:
        self.stopped = True
        self._on_stop()
        for client in tuple(self._clients):
            client.stop()

    def forget_other_signals(self) -> None:
        """Make `ending` unreadable again if it was a signal of a plugin's own that woke it."""
        if self.stopped:
            return
        with suppress(BlockingIOError):
            os.read(self.ending, 4096)
        if self.stopped:  # the stop signal came in this very moment, and its byte has been read
            os.write(self._end, b"\0")

    def announce_end(self) -> None:
        """Make `ending` readable: this process will serve nobody any more."""
        with suppress(BlockingIOError):  # it is full, and so it is readable
            os.write(self._end, b"\0")

    def serve(self, client: Servable) -> None:
        """Serve *client* to its end, or until stopped."""
        self._clients.add(client)
        if self.stopped:  # the signal came before there was a client to stop
            client.stop()
        try:
            client.serve()
        finally:
            self._clients.discard(client)
