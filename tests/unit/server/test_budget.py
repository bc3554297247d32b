"""How much memory the data of large requests may take."""

import os
from pathlib import Path

import pytest

from nbdfork.server import budget
from nbdfork.server.budget import Budget
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import Slot, State

MIB = 1 << 20


class Crowd:
    """Clients of a server with a budget of *limit* bytes."""

    def __init__(self, clients: int, limit: int) -> None:
        self.told = 0
        self.board = Scoreboard(clients)
        self.slots = []
        for index in range(clients):
            self.board.claim(1)
            budget_ = Budget(limit, self.board, self._tell)
            memory = self.board.share(range(index, index + 1))
            self.slots.append(Slot(memory, 0, self.board, budget_.has_room))

    def _tell(self) -> None:
        self.told += 1


def test_what_all_hold_together_is_bounded() -> None:
    crowd = Crowd(3, 10 * MIB)
    one, two, three = crowd.slots
    assert one.hold(6 * MIB)
    assert two.hold(4 * MIB)
    assert [slot.hold(1) for slot in (one, two, three)] == [False, False, False]
    assert crowd.board.held() == 10 * MIB
    one.let_go(MIB)
    assert three.hold(MIB)
    assert not two.hold(1)
    assert crowd.told == 3  # once by each


def test_there_is_no_limit_with_0() -> None:
    crowd = Crowd(2, 0)
    assert all(slot.hold(1 << 27) for slot in crowd.slots * 3)


def test_what_a_worker_held_is_free_when_it_was_reaped_or_has_another_client() -> None:
    crowd = Crowd(3, 10 * MIB)
    one, two, three = crowd.slots
    assert one.hold(10 * MIB)
    crowd.board.free(range(1))  # it was killed
    assert two.hold(10 * MIB)
    two.set(State.IDLE)
    assert three.hold(10 * MIB)
    three.set_closing()
    three.let_go(10 * MIB)  # a thread that was still at work
    assert crowd.board.held() == 0


def test_a_worker_that_has_gone_mad_does_not_use_up_more_than_a_client_can() -> None:
    crowd = Crowd(2, 1 << 30)
    mad, other = crowd.slots
    mad._numbers[:] = memoryview(b"\xff" * mad._numbers.nbytes).cast("Q")
    assert other.hold(64 * MIB)


def test_the_default_is_half_of_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(budget, "_CONTROL_GROUPS", tmp_path / "none")
    assert budget.default_limit() == machine // 2


def test_the_control_group_counts_and_those_that_it_is_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups = tmp_path / "cgroup"
    inner = groups / "system.slice" / "disks.service"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{64 * MIB}\n")
    listed = tmp_path / "listed"
    listed.write_text("1:cpu:/\n0::/system.slice/disks.service\n")
    monkeypatch.setattr(budget, "_CONTROL_GROUPS", groups)
    monkeypatch.setattr(budget, "_OF_THIS_PROCESS", listed)
    assert budget.default_limit() == 32 * MIB
