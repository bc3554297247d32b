"""The spinning filter: make the disk slow in the way of one whose heads have to move.

Where the heads are, and until when they move, is shared by all workers.
"""

import time
from collections.abc import Callable

from nbdfork.filters._around import AroundExport, Kind, Request, T
from nbdfork.filters._values import seconds
from nbdfork.plugin import (
    ConfigError,
    Export,
    Filter,
    Needs,
    Parameter,
    Server,
    SharedBuffer,
    SharedLock,
    parse,
)

_MOVING = (Kind.READ, Kind.WRITE, Kind.ZERO, Kind.TRIM, Kind.CACHE)
_TRACK = 1024 * 1024
_MOST_HEADS = 1024


class Spinning(Filter):
    """make the disk slow like one that spins"""

    heads = Parameter(parse.whole(1, _MOST_HEADS), default=1, metavar="N", help="how many heads")
    separate_heads = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="let each head move by itself"
    )
    min_seek_time = Parameter(
        seconds, default=0.01, metavar="TIME", help="the time to move to the next track"
    )
    half_seek_time = Parameter(
        seconds, default=0.2, metavar="TIME", help="the time to move half of the way"
    )
    max_seek_time = Parameter(
        seconds, default=0.5, metavar="TIME", help="the time to move all of the way"
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        if not self.min_seek_time <= self.half_seek_time <= self.max_seek_time:
            raise ConfigError(
                f"spinning: min-seek-time={self.min_seek_time:g},"
                f" half-seek-time={self.half_seek_time:g} and max-seek-time={self.max_seek_time:g}"
                " must be in this order"
            )

    def waits(self) -> bool:
        return True

    def get_ready(self) -> None:
        self._arms = Arms(self.heads if self.separate_heads else 1)

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return SpinningExport(next, self, self._arms)

    def seek_time(self, distance: float) -> float:
        """Return how long it takes to move by *distance*, of which 1 is all of the way.

        The curve is a parabola through the three times that are known.
        """
        least, half, most = self.min_seek_time, self.half_seek_time, self.max_seek_time
        square = 2 * (least + most - 2 * half)
        slope = most - least - square
        return max(0.0, least + slope * distance + square * distance * distance)


class Arms:
    """Where *count* arms are, and until when each of them moves."""

    def __init__(self, count: int) -> None:
        self._state = (
            SharedBuffer(16 * count, name="heads").view().cast("d")
        )  # of each: place, and until when
        self._lock = SharedLock(name="heads")

    def move(self, number: int, place: float, time_for: Callable[[float], float]) -> float:
        """Send an arm to *place*, from 0 to 1, when it is free; return how long that takes."""
        state = self._state
        with self._lock:
            now = time.monotonic()
            distance = abs(place - state[2 * number])
            arrival = max(now, state[2 * number + 1]) + time_for(distance)
            state[2 * number], state[2 * number + 1] = place, arrival
            return arrival - now


class SpinningExport(AroundExport):
    """*next*, to each place of which an arm has to move first."""

    def __init__(self, next: Export, disk: Spinning, arms: Arms) -> None:
        super().__init__(next)
        self._disk = disk
        self._arms = arms
        self._server: Server = disk.server
        self._part = max(1, -(-next.get_size() // disk.heads))  # of one head

    def can_resize(self) -> bool:
        return False  # the size is what the way of the arm is

    def is_rotational(self) -> bool:
        return True

    def around(self, request: Request, do: Callable[[], T]) -> T:
        if request.kind in _MOVING:
            head, inside = divmod(request.offset, self._part)
            arm = head if self._disk.separate_heads else 0
            time_for = self._time
            seconds = self._arms.move(arm, inside / self._part, time_for)
            if seconds > 0:
                self._server.wait(seconds)
        return do()

    def _time(self, distance: float) -> float:
        """Return the time to move; within a track there is nothing to move."""
        if distance * self._part < min(_TRACK, self._part / 100):
            return 0.0
        return self._disk.seek_time(distance)
