"""Capabilities are given up, and never come back.  Each test gives up those of a fork."""

import os
from pathlib import Path

import pytest

from nbdfork.server.sandbox import capabilities
from tests.support.forks import in_a_fork


def status(name: str) -> int:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")), 16)


def test_what_is_permitted_is_what_the_kernel_says() -> None:
    assert capabilities.permitted() == status("CapPrm")


def test_only_those_that_are_kept_are_left() -> None:
    def give_up() -> list[int]:
        before = status("CapPrm")
        capabilities.keep_only(capabilities.FILES)
        return [before & capabilities.FILES, status("CapPrm"), status("CapEff")]

    expected, permitted, effective = in_a_fork(give_up)
    assert (permitted, effective) == (expected, expected)


def test_what_is_given_up_cannot_be_had_again() -> None:
    def give_up() -> list[int]:
        capabilities.bound(0)
        capabilities.forbid_new_ones()
        capabilities.keep_only(0)
        capabilities.keep_only(capabilities.FILES)
        return [status("CapPrm"), status("CapEff"), status("NoNewPrivs")]

    assert in_a_fork(give_up) == [0, 0, 1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has any to bound")
def test_what_programs_of_root_can_have_is_bounded() -> None:
    def bound() -> int:
        capabilities.bound(capabilities.FILES)
        return status("CapBnd")

    assert in_a_fork(bound) == capabilities.FILES
