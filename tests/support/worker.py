"""A worker's place among the others, in one process."""

import os
import socket

from nbdfork.server.entrance import Entrance
from nbdfork.server.inheritance import Inheritance
from nbdfork.server.sandbox.sandbox import Plan, Sandbox
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.stopper import Stopper
from nbdfork.types import Needs

NO_SANDBOX = Sandbox(Plan("off", {}, os.getuid()), Needs(), one_client=True)


class Place:
    """A worker's place, with the supervisor's ends of all that it inherits."""

    def __init__(self, slots: int = 1) -> None:
        """*slots*: one for the worker, and one for each client that it serves at once, if many."""
        self.board = Scoreboard(slots)
        self.board.claim(1, slots)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(b"\0nbdfork-test-%d" % os.getpid())
        self.listener.listen()
        self.listener.setblocking(False)
        self.leash, self.leash_end = os.pipe2(os.O_NONBLOCK)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.changes, self.changes_end = os.pipe2(os.O_NONBLOCK)
        self.stopper = Stopper()
        self.inherited = Inheritance(
            range(slots),
            self.board,
            self.board.share(range(slots)),
            [self.listener],
            self.leash,
            self.bell,
            self.changes_end,
            -1,
            os.getpid(),
            None,
        )

    def client(self) -> socket.socket:
        """Connect."""
        made = socket.socket(socket.AF_UNIX)
        made.connect(self.listener.getsockname())
        return made

    def accept(self, has_clients: bool = False) -> socket.socket | None:
        """Wait for a client, or the end."""
        with Entrance(self.inherited, self.stopper, has_clients=has_clients) as waiting:
            return waiting.accept()

    def retire(self) -> None:
        """Tell the worker to end when it has no client."""
        self.board.retire(0)
        os.eventfd_write(self.bell, 1)

    def close(self) -> None:
        """Close what the test has left open."""
        self.listener.close()
        for fd in (self.leash, self.leash_end, self.bell, self.changes, self.changes_end):
            try:
                os.close(fd)
            except OSError:
                pass  # the test has done so
