"""Limits: which can be set, and that they are."""

import mmap
import resource

import pytest

from nbdfork.server.errors import StartupError
from nbdfork.server.sandbox import limits
from tests.support.forks import in_a_fork


def test_limits_are_set() -> None:
    def enforce() -> list[tuple[int, int]]:
        limits.enforce({"core": 0, "files": 50, "cpu": 7})
        names = (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)
        return [resource.getrlimit(name) for name in names]

    assert in_a_fork(enforce) == [[0, 0], [50, 50], [7, 8]]


def test_memory_is_counted_from_what_there_is() -> None:
    def allocate() -> list[bool]:
        limits.enforce({"memory": 32 << 20})
        done = []
        for size in (8 << 20, 64 << 20):
            try:  # by the system: the process may have as much that is free and not given back
                mmap.mmap(-1, size).close()
                done.append(True)
            except OSError:
                done.append(False)
        return done

    assert in_a_fork(allocate) == [True, False]


def test_limits_that_could_not_be_set_are_refused() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits.check({"files": hard, "memory": 1}, uid=1000)
    limits.check({"files": hard + 1}, uid=0)
    if hard != limits.UNLIMITED:
        with pytest.raises(StartupError, match=f"the system allows no more than {hard}"):
            limits.check({"files": hard + 1}, uid=1000)
    with pytest.raises(StartupError, match="does not hold for root"):
        limits.check({"processes": 10}, uid=0)


def test_they_are_shown() -> None:
    assert limits.shown({"core": limits.UNLIMITED, "files": 3}) == "core any, files 3"
