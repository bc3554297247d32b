"""What a worker inherits from the supervisor at its fork, and how it reports back."""

import os
import signal
import socket
from typing import NamedTuple

from setproctitle import setproctitle, setthreadtitle

from nbdfork.server.scoreboard import Scoreboard, Slot


def show_in_ps(name: str, title: str) -> None:
    """Let ps(1) and pgrep(1) show this process with *name* (15 bytes at most) and *title*."""
    setproctitle(f"nbdfork: {title}")
    setthreadtitle(name)


class Inheritance(NamedTuple):
    """A worker's place among the others.

    *slots* are its own: the first is for itself, the others are for clients that it serves at the
    same time.  *leash* is a pipe that reaches its end when the workers of its generation are to
    end, or the supervisor is dead.  *bell* is an eventfd that rings when the supervisor has given
    orders; it is never read.  A byte on the pipe *news* tells the supervisor to look at the
    scoreboard.
    """

    slots: range
    board: Scoreboard
    listeners: list[socket.socket]
    leash: int
    bell: int
    news: int
    supervisor: int

    def slot(self) -> Slot:
        """Return the worker's own slot."""
        return self.board.slot(self.slots[0])

    def announce(self) -> None:
        """Tell the supervisor that the scoreboard has changed, and show in ps what it says."""
        entries = [self.board.entry(index) for index in self.slots]
        clients = "; ".join(entry.client for entry in entries if entry.peer)
        title = f"worker {entries[0].state.name.lower()} {clients}"
        show_in_ps("nbdfork-worker", title.rstrip())
        try:
            os.write(self.news, b"n")
        except (BlockingIOError, BrokenPipeError):
            pass  # full, so it will look anyway; or gone, and the leash will say so

    def stop_server(self) -> None:
        """Tell the supervisor to end, with all its workers."""
        os.kill(self.supervisor, signal.SIGTERM)
