"""The memory that the data of large requests may take, for the server as a whole.

A client's slot says how much it holds, and nobody else writes there.  Whoever wants more adds it to
its own first and looks at the sum then: two that come at the same time see each other.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from nbdfork.server.scoreboard import Scoreboard

_CONTROL_GROUPS = "/sys/fs/cgroup"
_OF_THIS_PROCESS = "/proc/self/cgroup"

_SHARE = 2
"""One part in so many of the memory that there is may be clients' data."""


class Budget:
    """What a worker looks at, of a server whose clients may hold *limit* bytes (0: any number)."""

    def __init__(self, limit: int, board: Scoreboard, on_full: Callable[[], None]) -> None:
        """*on_full* is called when it is used up, once."""
        self._limit = limit
        self._board = board
        self._on_full = on_full
        self._is_told = False

    def has_room(self) -> bool:
        """Return whether what all clients hold is within the budget."""
        if not self._limit or self._board.held() <= self._limit:
            return True
        if not self._is_told:
            self._is_told = True
            self._on_full()
        return False


def default_limit() -> int:
    """Return the budget in bytes, unless the user says otherwise: half of the memory that this
    machine has, or that its control group may have (systemd's MemoryMax).
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits_of_group()]) // _SHARE


def _limits_of_group() -> Iterator[int]:
    """Yield the limits of this process's control group, and of those that it is in."""
    path = ""
    with suppress(OSError), open(_OF_THIS_PROCESS, encoding="utf-8") as lines:
        path = next((line[3:].strip() for line in lines if line.startswith("0::")), "")
    while path.strip("/"):
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            with open(f"{_CONTROL_GROUPS}{path}/memory.max", encoding="ascii") as file:
                yield int(file.read())
        path = os.path.dirname(path)
