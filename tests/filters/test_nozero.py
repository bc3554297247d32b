"""The nozero filter: zeroes that are hidden, written, or only not trimmed."""

from typing import Any

import pytest

from nbdfork.plugin import ConfigError
from tests.support.beside import FAST, outcomes
from tests.support.disks import SIZE, Disk, ReadOnlyDisk, ZeroingDisk, chain, gate
from tests.support.harness import need
from tests.support.noise import noise


@pytest.mark.parametrize(
    ("arguments", "fast", "asked"),
    [
        (["zeromode=emulate"], False, ["pwrite"]),
        (["zeromode=notrim"], False, ["zero flags=0"]),
        (["zeromode=plugin"], False, ["zero flags=1"]),
        (["zeromode=notrim", "fastzeromode=ignore"], True, ["zero flags=0"]),
        (["zeromode=plugin", "fastzeromode=ignore"], True, ["zero flags=1"]),
    ],
)
def test_nozero_lets_through_what_it_should(
    arguments: list[str], fast: bool, asked: list[str]
) -> None:
    disk = ZeroingDisk(noise(SIZE))
    top = gate(disk, "nozero", *arguments)
    top.zero(100, 10, may_trim=True, fast=fast, fua=False)
    assert disk.asked == asked
    assert disk.content[10:110] == bytes(100)


def test_nozero_needs_a_disk_that_zeroes_if_it_is_to_do_so() -> None:
    for mode in ("notrim", "plugin"):
        with pytest.raises(OSError, match=f"zeromode={mode}.*zeromode=emulate"):
            gate(Disk(noise(SIZE)), "nozero", f"zeromode={mode}")
        assert not gate(ReadOnlyDisk(), "nozero", f"zeromode={mode}").can_write


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["zeromode=none", "fastzeromode=ignore"],
        ["zeromode=emulate"],
        ["zeromode=emulate", "fastzeromode=none"],
        ["zeromode=emulate", "fastzeromode=slow"],
        ["zeromode=emulate", "fastzeromode=ignore"],
        ["zeromode=notrim"],
        ["zeromode=notrim", "fastzeromode=slow"],
        ["zeromode=plugin"],
        ["zeromode=plugin", "fastzeromode=none"],
        ["zeromode=plugin", "fastzeromode=slow"],
        ["zeromode=plugin", "fastzeromode=ignore"],
    ],
)
def test_nozero_as_nbdkit_does_it(arguments: list[str]) -> None:
    need("nbdkit")
    script: list[tuple[Any, ...]] = [
        ("can_zero",),
        ("can_fast_zero",),
        ("pwrite", noise(8192), 0),
        ("zero", 4096, 0),
        ("zero", 1000, 5000, FAST),
        ("pread", 8192, 0),
    ]
    if "fastzeromode=none" in arguments:
        del script[4]  # nbdkit would not survive it
    if not arguments or "zeromode=none" in arguments:
        del script[3:5]  # a server that offers no zeroing has nothing to answer
    command = ["--filter=nozero", "memory", "1M", *arguments]
    assert outcomes("nbdfork", command, script) == outcomes("nbdkit", command, script)


def test_both_spellings_of_a_mode() -> None:
    disk = ZeroingDisk(noise(SIZE))
    for words in (["zeromode=emulate"], ["zero-mode=emulate", "fast-zero-mode=slow"]):
        assert gate(disk, "nozero", *words).can_zero
    assert not gate(disk, "nozero").can_zero
    with pytest.raises(ConfigError, match="zeromode= and zero-mode= are the same"):
        chain(disk, "nozero", "zeromode=none", "zero-mode=none")
