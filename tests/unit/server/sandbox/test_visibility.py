"""What processes see of each other.  Each test changes that for a fork."""

import errno
import os
from pathlib import Path

import pytest

from nbdfork.server.sandbox import capabilities, landlock, visibility
from tests.support.forks import in_a_fork

needs_power = pytest.mark.skipif(
    not (visibility.can_hide() and landlock.version()), reason="root has to give it"
)


def seen() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


@needs_power
def test_who_may_not_look_into_others_does_not_see_them() -> None:
    def hide() -> list[object]:
        visibility.hide_processes()
        before = os.getppid() in seen()
        capabilities.forbid_new_ones()
        capabilities.keep_only(0)
        landlock.Ruleset(signals=True).enforce()
        return [before, seen() == [os.getpid()], os.path.exists(f"/proc/{os.getppid()}")]

    assert in_a_fork(hide) == [True, True, False]
    assert 1 in seen()  # this process has the other /proc still


@needs_power
def test_what_is_mounted_later_elsewhere_is_seen(tmp_path: Path) -> None:
    def hide() -> str:
        visibility.hide_processes()
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return next(line for line in lines if line.split()[4] == "/proc" and "hidepid" in line)

    assert "hidepid=ptraceable" in in_a_fork(hide)


@needs_power
def test_what_is_masked_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "_mounted", lambda: iter(["/", "/proc", "/proc/kcore"]))
    with pytest.raises(OSError, match="/proc/kcore is mounted over") as caught:
        visibility.hide_processes()
    assert caught.value.errno == errno.EBUSY


def test_only_who_has_the_power_can_hide() -> None:
    def give_up() -> bool:
        capabilities.keep_only(0)
        return visibility.can_hide()

    assert in_a_fork(give_up) is False


def test_memory_is_closed_to_those_without_power(tmp_path: Path) -> None:
    def close() -> list[object]:
        visibility.close_memory()
        return [os.stat("/proc/self/environ").st_uid, os.path.exists("/proc/self/fd/0")]

    assert in_a_fork(close) == [0, True]
