"""Landlock: rules allow what they name, and nothing else.  Each test confines a fork."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nbdfork.server.sandbox import capabilities, landlock
from nbdfork.server.sandbox.landlock import Ruleset
from tests.support.forks import in_a_fork

pytestmark = pytest.mark.skipif(landlock.version() == 0, reason="the kernel has no Landlock")


def outcome(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"


def confined(rules: Ruleset, *actions: Callable[[], object]) -> list[str]:
    """Return what becomes of *actions* in a fork in which *rules* are enforced."""

    def attempt() -> list[str]:
        capabilities.forbid_new_ones()
        rules.enforce()
        return [outcome(action) for action in actions]

    outcomes: list[str] = in_a_fork(attempt)
    return outcomes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "beside").write_bytes(b"content")
    return tmp_path / "file"


def test_a_file_may_be_read_and_not_written_nor_what_is_beside_it(file: Path) -> None:
    rules = Ruleset(files=True)
    rules.allow(str(file), landlock.READ)
    assert confined(
        rules,
        file.read_bytes,
        lambda: file.write_bytes(b""),
        (file.parent / "beside").read_bytes,
        lambda: os.listdir(file.parent),
    ) == ["done", "PermissionError", "PermissionError", "PermissionError"]


def test_in_a_directory_all_can_be_changed(file: Path) -> None:
    rules = Ruleset(files=True)
    rules.allow(str(file.parent), landlock.CHANGE)
    new = file.parent / "new"
    assert confined(
        rules,
        file.read_bytes,
        lambda: new.mkdir(),
        lambda: file.rename(new / "file"),
        lambda: (new / "file").unlink(),
        lambda: (file.parent.parent / "outside").mkdir(),
    ) == ["done", "done", "done", "done", "PermissionError"]


def test_what_is_not_there_is_no_error(file: Path) -> None:
    rules = Ruleset(files=True)
    rules.allow(str(file.parent / "missing"), landlock.READ)
    rules.allow(str(file / "under a file"), landlock.READ)
    assert confined(rules, file.read_bytes) == ["PermissionError"]


def test_a_file_is_the_one_at_the_time_of_enforcing_unless_fixed_before(file: Path) -> None:
    late, early = Ruleset(files=True), Ruleset(files=True)
    for rules in (late, early):
        rules.allow(str(file), landlock.READ)
    early.fix()
    (file.parent / "beside").rename(file)
    assert confined(late, file.read_bytes) == ["done"]
    assert confined(early, file.read_bytes) == ["PermissionError"]


@pytest.mark.skipif(not landlock.scopes(), reason="the kernel's Landlock is too old")
def test_signals_are_kept_in(file: Path) -> None:
    parent = os.getpid()
    signalled = confined(
        Ruleset(signals=True), lambda: os.kill(parent, 0), lambda: os.kill(os.getpid(), 0)
    )
    assert signalled == ["PermissionError", "done"]


def test_a_ruleset_of_nothing_changes_nothing(file: Path) -> None:
    rules = Ruleset()
    rules.fix()
    assert confined(rules, file.read_bytes) == ["done"]


class Counting(Ruleset):
    """Counts how often the rules are made."""

    made = 0

    def _made(self) -> int:
        Counting.made += 1
        return super()._made()


def test_rules_are_made_once_while_their_paths_lead_to_the_same(file: Path) -> None:
    rules = Counting(files=True)
    rules.allow(str(file), landlock.READ, may_change=True)
    rules.fix()
    rules.fix()
    before = Counting.made
    assert confined(rules, file.read_bytes, (file.parent / "beside").read_bytes) == [
        "done",
        "PermissionError",
    ]
    file.write_bytes(b"written anew")
    rules.fix()
    assert Counting.made == before


@pytest.mark.parametrize("is_fixed_again", [False, True])
def test_a_file_that_has_replaced_another_is_the_one_that_is_allowed(
    file: Path, is_fixed_again: bool
) -> None:
    rules = Ruleset(files=True)
    rules.allow(str(file), landlock.READ, may_change=True)
    rules.fix()
    with file.open("rb") as old:
        (file.parent / "beside").rename(file)
        if is_fixed_again:
            rules.fix()
        assert confined(
            rules,
            file.read_bytes,
            lambda: Path(f"/proc/self/fd/{old.fileno()}").read_bytes(),
        ) == ["done", "PermissionError"]


def test_a_path_may_come_to_be_there_later(file: Path) -> None:
    rules = Ruleset(files=True)
    later = file.parent / "later"
    rules.allow(str(later), landlock.READ, may_change=True)
    rules.fix()
    later.write_bytes(b"here")
    assert confined(rules, later.read_bytes) == ["done"]
