"""The watchdog: who hangs, by what the scoreboard says."""

import time

import pytest

from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import Slot
from nbdfork.server.watchdog import Hang, HangLimits, Watchdog

NOW = 10**15  # of the monotonic clock, in nanoseconds
SECOND = 10**9
WORKERS = {7: range(1), 8: range(1, 3)}


class Clock:
    """The monotonic clock, which this test winds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now / SECOND)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def board_of(*busy_since: int) -> Scoreboard:
    board = Scoreboard(3)
    for index, since in enumerate(busy_since):
        board.claim(1)
        Slot(board.share(range(index, index + 1)), 0).set_busy(since)
    return board


def test_it_warns_once_of_a_call_and_then_kills(clock: Clock) -> None:
    watchdog = Watchdog(board_of(NOW, 0, 0), HangLimits(warning=8, kill=40))
    seen: list[Hang] = []
    while clock.now < NOW + 60 * SECOND and not (seen and seen[-1].is_fatal):
        pause = watchdog.pause()
        assert pause is not None
        clock.now += int(max(pause, 0.1) * SECOND)
        seen += watchdog.look(WORKERS)
    assert seen == [Hang(7, 8.0, is_fatal=False), Hang(7, 40.0, is_fatal=True)]


def test_each_call_that_hangs_is_worth_a_warning(clock: Clock) -> None:
    board = board_of(NOW)
    watchdog = Watchdog(board, HangLimits(warning=8, kill=0))
    found: list[Hang] = []
    for _ in range(3):
        clock.now += 8 * SECOND
        found += watchdog.look(WORKERS)
        Slot(board.share(range(1)), 0).set_busy(clock.now)
    assert [hang.seconds for hang in found] == [8.0, 8.0, 8.0]


def test_of_several_clients_the_one_that_waits_longest_counts(clock: Clock) -> None:
    watchdog = Watchdog(board_of(0, NOW + 5 * SECOND, NOW), HangLimits(warning=8, kill=0))
    clock.now += 9 * SECOND
    assert list(watchdog.look(WORKERS)) == [Hang(8, 9.0, is_fatal=False)]


def test_nobody_who_waits_for_clients_hangs(clock: Clock) -> None:
    watchdog = Watchdog(board_of(0, 0, 0), HangLimits(warning=1, kill=2))
    clock.now += 1000 * SECOND
    assert list(watchdog.look(WORKERS)) == []


def test_without_limits_it_never_looks() -> None:
    watchdog = Watchdog(board_of(1), HangLimits(warning=0, kill=0))
    assert watchdog.pause() is None
    assert list(watchdog.look(WORKERS)) == []
