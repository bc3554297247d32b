"""The delay filter, with a clock that does not run."""

import errno
import time
from functools import partial
from pathlib import Path

import pytest

from nbdfork.plugin import ConfigError, Server
from tests.support.disks import SIZE, Disk, ZeroingDisk, chain, exports, gate
from tests.support.facts import EVERYTHING, Facts, name_of
from tests.support.harness import refused
from tests.support.model import carry_out
from tests.support.noise import noise


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times: list[float] = []
    monkeypatch.setattr(time, "sleep", times.append)
    monkeypatch.setattr(Server, "wait", lambda self, seconds: times.append(seconds))
    return times


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["rdelay=2"], [2.0]),
        (["delay-read=100ms"], [0.1]),
        (["wdelay=0.5"], [0.5, 0.5, 0.5]),
        (["delay-write=1"], [1.0]),
        (["wdelay=1ms", "delay-zero=3"], [0.001, 3.0, 0.001]),
        (["delay-trim=7", "wdelay=0"], [7.0]),
        (["delay-extents=5"], [5.0]),
        (["delay-cache=6"], [6.0]),
        (["delay-open=8", "delay-close=9"], [8.0, 9.0]),
    ],
)
def test_delay(slept: list[float], arguments: list[str], expected: list[float]) -> None:
    top = gate(Disk(noise(SIZE)), "delay", *arguments)
    model = bytearray(noise(SIZE))
    for operation in ("read", "write", "zero", "trim", "cache"):
        carry_out(top, model, (operation, 10, 10, 1))
    top.extents(10, 0, 0)
    top.flush()
    top.close()
    assert slept == expected


@pytest.mark.parametrize("delayed", [False, True])
def test_delay_can_refuse_fast_zeroes_at_once(slept: list[float], delayed: bool) -> None:
    top = gate(ZeroingDisk(noise(SIZE)), "delay", "wdelay=1", f"delay-fast-zero={delayed}")
    assert top.can_fast_zero is not delayed  # a disk that zeroes does not say how fast
    if not delayed:
        with refused(errno.EOPNOTSUPP):
            top.zero(10, 0, may_trim=True, fast=True, fua=False)
    assert slept == []


@pytest.mark.parametrize("argument", ["delay-extents=5", "error-extents-rate=100%"])
def test_what_else_is_asked_about_a_disk_counts_as_extents_do(
    slept: list[float], argument: str
) -> None:
    name = argument.split("-", maxsplit=1)[0]
    made = exports(Facts(), name, argument).open(name_of(EVERYTHING))
    for ask in (made.extents, partial(made.status, "x-test:age")):
        if name == "error":
            with refused(errno.EIO):
                ask(10, 0, 0)
        else:
            ask(10, 0, 0)
    assert slept == ([5.0, 5.0] if name == "delay" else [])


def test_only_a_delay_of_requests_makes_it_worthwhile_to_have_several_at_once() -> None:
    assert chain(Disk(b""), "delay", "delay-trim=1").waits()
    for arguments in ([], ["delay-open=1"], ["rdelay=0"]):
        assert not chain(Disk(b""), "delay", *arguments).waits()


def test_both_names_of_one_delay() -> None:
    with pytest.raises(ConfigError, match=r"rdelay= and delay-read="):
        gate(Disk(b""), "delay", "rdelay=1", "delay-read=2")


def test_nothing_is_delayed_before_the_trigger_exists(slept: list[float], tmp_path: Path) -> None:
    trigger = tmp_path / "now"
    top = gate(Disk(noise(SIZE)), "delay", "rdelay=2", "delay-close=3", f"delay-trigger={trigger}")
    top.pread(10, 0)
    assert slept == []
    trigger.touch()
    top.pread(10, 0)
    assert slept == [2.0]
    trigger.unlink()
    top.pread(10, 0)
    top.close()
    assert slept == [2.0, 0]
