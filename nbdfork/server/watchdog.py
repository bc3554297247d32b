"""The watchdog: notice plugins that hang, by what their workers say on the scoreboard.

It decides which workers to report or to kill; carrying that out is left to the generation.
"""

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nbdfork.server.scoreboard import Scoreboard

LOOKS_PER_LIMIT = 4
"""So many times is looked before a limit is reached: it is exceeded by a quarter at the most."""


class HangLimits(NamedTuple):
    """After how many seconds a call to a plugin is worth a *warning*, or kills (*kill*) its worker;
    0 is never.
    """

    warning: float = 60.0
    kill: float = 0.0


DEFAULT_LIMITS = HangLimits()


class Hang(NamedTuple):
    """A worker whose plugin has been at work for *seconds*; *is_fatal* if it is to be killed."""

    pid: int
    seconds: float
    is_fatal: bool


class Watchdog:
    """Look at workers from time to time."""

    def __init__(self, board: Scoreboard, limits: HangLimits) -> None:
        self._board = board
        self._limits = limits
        self._interval = min(filter(None, limits), default=0.0) / LOOKS_PER_LIMIT
        self._next_look = time.monotonic() + self._interval
        self._warned: dict[int, int] = {}  # of which call, by pid

    def pause(self) -> float | None:
        """Return in how many seconds to look again; None if there is nothing to look for."""
        if not self._interval:
            return None
        return max(0.0, self._next_look - time.monotonic())

    def look(self, workers: Mapping[int, range]) -> Iterable[Hang]:
        """Yield the workers, given with their slots, that hang: once for each call."""
        if self.pause() != 0.0:
            return
        self._next_look = time.monotonic() + self._interval
        self._warned = {pid: call for pid, call in self._warned.items() if pid in workers}
        now = time.monotonic_ns()
        for pid, slots in workers.items():
            busy = [since for slot in slots if (since := self._board.entry(slot).busy_since)]
            if busy and (hang := self._judge(pid, min(busy), now)) is not None:
                yield hang

    def _judge(self, pid: int, since: int, now: int) -> Hang | None:
        seconds = (now - since) / 1e9
        if self._limits.kill and seconds >= self._limits.kill:
            return Hang(pid, seconds, is_fatal=True)
        is_new = self._warned.get(pid) != since
        if self._limits.warning and seconds >= self._limits.warning and is_new:
            self._warned[pid] = since
            return Hang(pid, seconds, is_fatal=False)
        return None
