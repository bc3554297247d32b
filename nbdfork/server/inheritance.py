"""What a worker inherits from the supervisor at its fork, and how it reports back."""

import os
import select
import signal
import socket
from contextlib import suppress
from typing import NamedTuple

from setproctitle import setproctitle, setthreadtitle

from nbdfork.server.budget import Budget
from nbdfork.server.departures import Line
from nbdfork.server.linux import SharedMemory
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import Slot


class _Program:
    name = "nbdfork"


def show_program(name: str) -> None:
    """Let ps(1) and pgrep(1) show this process, and those that it forks, as the program *name*."""
    _Program.name = name


def show_in_ps(title: str, part: str = "") -> None:
    """Let ps(1) show this process with *title*, and pgrep(1) find it as *part* of the program.

    The name and the part have 15 bytes at most.
    """
    shown = title.encode(errors="surrogateescape").decode(errors="replace")  # file names are in it
    setproctitle(f"{_Program.name}: {shown}")
    setthreadtitle(f"{_Program.name}{part}")


STACK_SIGNAL = int(signal.SIGRTMIN) + 7
"""Makes a worker write its stack to a pipe, whatever it is doing.  Nothing else uses this one."""


LOOK, STOP, FULL = b"n", b"s", b"m"
"""What workers write to the pipe *changes*."""


class Inheritance(NamedTuple):
    """A worker's place among the others.

    *slots* of the *board* are its own, and *memory* lets it write to them: the first is for itself,
    the others are for clients that it serves at the same time.  *leash* is a pipe that reaches its
    end when the workers of its generation are to end, or the supervisor is dead.  *bell* is an
    eventfd that rings when the supervisor has given orders; it is never read.  A byte on the pipe
    *changes* tells the supervisor to look at the scoreboard, to stop, or that the clients hold as
    much as they may: *memory_budget* bytes.  *stacks* is a pipe for what `STACK_SIGNAL` makes it
    say.  *line* is where its client is watched.
    """

    slots: range
    board: Scoreboard
    memory: SharedMemory
    listeners: list[socket.socket]
    leash: int
    bell: int
    changes: int
    stacks: int
    supervisor: int
    line: Line | None
    memory_budget: int = 0

    def slot(self, place: int) -> Slot:
        """Return one of the worker's slots; the first, 0, is for itself."""
        budget = Budget(self.memory_budget, self.board, lambda: self._tell(FULL))
        return Slot(self.memory, place, self.board, budget.has_room)

    def announce(self) -> None:
        """Tell the supervisor that the scoreboard has changed, and show in ps what it says."""
        state = self.board.state(self.slots[0]).name.lower()
        show_in_ps(f"worker {state} {self.board.clients(self.slots)}".rstrip(), "-worker")
        self._tell(LOOK)

    def _tell(self, what: bytes) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            # It is full, so the supervisor will look anyway; or gone, and the leash will say so.
            os.write(self.changes, what)

    def stop_server(self) -> None:
        """Tell the supervisor to end, with all its workers.

        It cannot be sent a signal from within a sandbox.
        """
        room = select.poll()
        room.register(self.changes, select.POLLOUT)
        with suppress(BrokenPipeError):  # it has ended
            while True:
                room.poll()
                with suppress(BlockingIOError):  # another worker has just filled the pipe
                    os.write(self.changes, STOP)
                    return
