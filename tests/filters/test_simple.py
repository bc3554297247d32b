"""The filters that change a fact or forbid something: what becomes of requests.

What they say of a disk is in test_facts.py.
"""

import errno
import re
from pathlib import Path

import pytest

from nbdfork.plugin import FUA, ConfigError, Support
from tests.support.disks import SIZE, Disk, ReadOnlyDisk, ZeroingDisk, gate
from tests.support.harness import refused
from tests.support.noise import noise


class FlaggedDisk(Disk):
    """a disk that remembers which writes had which flags, and can flush"""

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        super().pwrite(data, offset, flags)
        self.asked[-1] += f" flags={flags}"


class DurableDisk(FlaggedDisk):
    """the same, with FUA"""

    def can_fua(self) -> Support:
        return Support.NATIVE


def test_nofilter_changes_nothing() -> None:
    disk = ZeroingDisk(noise(SIZE))
    top = gate(disk, "nofilter")
    top.zero(100, 10, may_trim=True, fast=False, fua=False)
    assert top.pread(200, 0) == disk.content[:200]
    assert disk.asked == ["zero flags=1", "pread"]


@pytest.mark.parametrize(
    ("argument", "asked"), [("cache-mode=emulate", ["pread"]), ("cachemode=nop", [])]
)
def test_nocache_does_what_its_mode_says(argument: str, asked: list[str]) -> None:
    disk = Disk(noise(SIZE))
    gate(disk, "nocache", argument).cache(100, 0)
    assert disk.asked == asked


def test_nocache_offers_no_caching_by_default() -> None:
    with refused(errno.EINVAL):
        gate(Disk(noise(SIZE)), "nocache").cache(100, 0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nocache", ["cache-mode=nop", "cachemode=nop"]),
        ("fua", ["fua-mode=pass", "fuamode=pass"]),
    ],
)
def test_two_spellings_of_one_parameter_are_too_many(name: str, arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=re.escape("are the same: give one of them")):
        gate(Disk(b""), name, *arguments)


def test_readonly_refuses_while_its_file_exists(tmp_path: Path) -> None:
    switch = tmp_path / "readonly"
    disk = ZeroingDisk(noise(SIZE))
    top = gate(disk, "readonly", f"readonly-file={switch}")
    top.pwrite(memoryview(b"data"), 0, fua=False)
    switch.touch()
    with refused(errno.EPERM):
        top.pwrite(memoryview(b"more"), 0, fua=False)
    with refused(errno.EPERM):
        top.trim(512, 0, fua=False)
    with refused(errno.EPERM):
        top.zero(512, 0, may_trim=False, fast=False, fua=False)
    assert top.pread(4, 0) == b"data"
    switch.unlink()
    top.trim(512, 0, fua=False)
    assert disk.asked == ["pwrite", "pread", "trim"]


@pytest.mark.parametrize(
    ("mode", "wants_fua", "asked"),
    [
        ("none", False, ["pwrite flags=0"]),
        ("emulate", True, ["pwrite flags=0", "flush"]),
        ("native", True, ["pwrite flags=0", "flush"]),
        ("native", False, ["pwrite flags=0"]),
        ("force", False, ["pwrite flags=0", "flush"]),
        ("pass", True, ["pwrite flags=0", "flush"]),
        ("discard", True, ["pwrite flags=0"]),
    ],
)
def test_fua_over_a_disk_that_can_only_flush(mode: str, wants_fua: bool, asked: list[str]) -> None:
    disk = FlaggedDisk(noise(SIZE))
    gate(disk, "fua", f"fua-mode={mode}").pwrite(memoryview(b"data"), 0, fua=wants_fua)
    assert disk.asked == asked


@pytest.mark.parametrize(
    ("mode", "wants_fua", "asked"),
    [
        ("emulate", True, ["pwrite flags=0", "flush"]),
        ("native", True, [f"pwrite flags={FUA}"]),
        ("force", False, [f"pwrite flags={FUA}"]),
        ("discard", True, ["pwrite flags=0"]),
    ],
)
def test_fua_over_a_disk_with_fua(mode: str, wants_fua: bool, asked: list[str]) -> None:
    disk = DurableDisk(noise(SIZE))
    gate(disk, "fua", f"fua-mode={mode}").pwrite(memoryview(b"data"), 0, fua=wants_fua)
    assert disk.asked == asked


def test_flushes_that_are_not_needed_are_not_passed_on() -> None:
    for mode, asked in {"force": [], "discard": [], "pass": ["flush"]}.items():
        disk = Disk(noise(SIZE))
        gate(disk, "fua", f"fua-mode={mode}").flush()
        assert disk.asked == asked


def test_fua_flushes_when_the_client_leaves() -> None:
    disk = Disk(noise(SIZE))
    gate(disk, "fua", "fua-mode=pass", "flush-on-close=true").close()
    assert disk.asked == ["flush"]
    with refused(errno.EINVAL, "flush-on-close=true"):
        gate(ReadOnlyDisk(), "fua", "flush-on-close=true")
