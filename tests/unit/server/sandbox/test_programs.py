"""The sandbox of programs that serve clients: what it is made of.  faults/ shows that it holds."""

import gc
import os
import resource

import pytest

from nbdfork.server.errors import StartupError
from nbdfork.server.sandbox import capabilities, landlock
from nbdfork.server.sandbox.programs import confinement
from nbdfork.server.sandbox.sandbox import Plan
from nbdfork.server.sandbox.users import Users
from tests.support.forks import in_a_fork


def test_nothing_is_taken_where_nothing_is_asked_for() -> None:
    assert confinement(Plan("off", {}, os.geteuid())) is None


def test_limits_hold_without_a_sandbox() -> None:
    enter = confinement(Plan("off", {"files": 99}, os.geteuid()))
    assert enter is not None

    def entered() -> list[int]:
        enter()
        return list(resource.getrlimit(resource.RLIMIT_NOFILE))

    assert in_a_fork(entered) == [99, 99]


def test_what_cannot_be_had_is_told_before_there_is_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StartupError, match="does not hold for root"):
        confinement(Plan("off", {"processes": 9}, 0))
    assert confinement(Plan("off", {"processes": 9}, 0, Users(5000, 5010))) is not None
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(StartupError, match="this kernel lacks Landlock"):
        confinement(Plan("require", {}, 1000))


def test_no_descriptor_is_left_in_the_process_that_starts_it() -> None:
    gc.collect()  # what other tests have left is not closed in between
    before = os.listdir("/proc/self/fd")
    enter = confinement(Plan("auto", {}, os.geteuid()))
    assert enter is not None
    in_a_fork(enter)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("uid", "more"), [(65534, capabilities.IDENTITY), (0, 0)])
def test_what_becomes_another_user_keeps_what_that_takes(uid: int, more: int) -> None:
    enter = confinement(Plan("require", {}, uid))
    assert enter is not None

    def entered() -> int:
        enter()
        return capabilities.permitted()

    assert in_a_fork(entered) == capabilities.FILES | more
