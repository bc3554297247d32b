"""A user for each worker."""

import os

import pytest

from nbdfork.server.errors import StartupError
from nbdfork.server.sandbox.users import Users
from tests.support.forks import in_a_fork

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can change the user")


@needs_root
@pytest.mark.parametrize(("gid", "expected"), [(None, 5003), (77, 77)])
def test_each_place_has_its_user(gid: int | None, expected: int) -> None:
    def become() -> list[object]:
        Users(5000, 5009, gid).become(3)
        return [*os.getresuid(), *os.getresgid(), os.getgroups()]

    assert in_a_fork(become) == [5003] * 3 + [expected] * 3 + [[]]


def test_there_must_be_enough_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    Users(5000, 5003).check(4)
    with pytest.raises(StartupError, match="these are 4 users, and there can be 5 workers"):
        Users(5000, 5003).check(5)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StartupError, match="must be started as root"):
        Users(5000, 5003).check(4)
