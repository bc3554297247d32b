"""What holds for several filters, or for every one of them."""

import errno
import re
from pathlib import Path

import pytest

from nbdfork.backend import load
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import (
    ConfigError,
    Export,
    parameters_of,
)
from tests.support.disks import MIB, SIZE, Disk, ReadOnlyDisk, gate
from tests.support.harness import Server, need, output, refused
from tests.support.kinds import NEEDING_CONTENT
from tests.support.noise import noise


@pytest.mark.parametrize("name", ["log", "delay", "error"])
def test_filters_that_count_zeroes_see_them_over_any_disk(name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    disk = Disk(noise(3 * MIB))
    top = gate(disk, name, *([f"logfile={log}"] if name == "log" else []))
    top.zero(2 * MIB + 1, 5, may_trim=True, fast=False, fua=True)
    assert disk.content == noise(3 * MIB)[:5] + bytes(2 * MIB + 1) + noise(3 * MIB)[2 * MIB + 6 :]
    with refused(errno.EOPNOTSUPP):
        top.zero(100, 0, may_trim=True, fast=True, fua=False)
    if name == "log":
        assert "Write" not in log.read_text()
        assert log.read_text().count(" Zero ") == 2
    assert not gate(ReadOnlyDisk(), name).can_write


@pytest.mark.parametrize(
    ("name", "argument", "fix"),
    [
        ("offset", "offset=-1", "512k"),
        ("offset", "range=x", "512k"),
        ("truncate", "truncate=8E", "2^63-1"),
        ("truncate", "round-up=0", "power of 2"),
        ("truncate", "round-down=1000", "power of 2"),
        ("log", "logappend=maybe", "true or false"),
        ("delay", "rdelay=1h", "100ms"),
        ("delay", "delay-open=-1", "100ms"),
        ("delay", "wdelay=31536000", "30 days"),
        ("delay", "delay-fast-zero=2", "true or false"),
        ("error", "error=EFOO", "ENOSPC"),
        ("error", "error-rate=101%", "0% to 100%"),
        ("error", "error-pread-rate=2", "0 to 1"),
        ("error", "error-zero-rate=often", "10%"),
        ("nozero", "zeromode=x", "emulate"),
        ("nozero", "fastzeromode=x", "ignore"),
        ("cow", "cow-block-size=1k", "4k to 2G"),
        ("cow", "cow-block-size=5000", "power of 2"),
        ("cow", "cow-on-read=relative", "absolute path"),
        ("limit", "limit=-1", "whole number"),
        ("cache", "cache-min-block-size=1k", "4k to 1G"),
        ("cache", "cache-high-threshold=70", "must be less"),
        ("cache", "cache-max-size=65536", "no room"),
        ("scan", "scan-size=3M", "power of 2"),
        ("rate", "rate=fast", "50K"),
        ("rate", "burstiness=0", "more than 0"),
        ("spinning", "heads=0", "whole number"),
        ("spinning", "half-seek-time=1", "in this order"),
        ("evil", "evil-probability=1:0", "a probability"),
        ("evil", "evil=good", "stuck-wires"),
        ("xor", "xor=secret", "0xDEADBEEF"),
        ("xor", "xor=1", "xorlen="),
        ("retry", "retry-delay=-1", "100ms"),
        ("retry-request", "retry-request-retries=0", "whole number"),
        ("ip", "allow=somebody", "10.0.0.0/8"),
        ("ip", "deny=pid:x", "a number after pid:"),
        ("stats", "statsthreshold=101", "from 0 to 100"),
        ("time-limit", "time-limit=soon", "100ms"),
        ("exitwhen", "exit-when-poll=0", "60"),
        ("exitwhen", "exit-when-process-exits=0", "whole number"),
        ("protect", "protect=12", "START-END"),
        ("protect", "protect=9-8", "ends before"),
        ("protect", "protect=0-08", "0x200"),
        ("map", "map=0-511", "0-511:512"),
        ("map", "map=5-4:0", "ends before"),
    ],
)
def test_a_bad_value_is_named_and_the_fix_told(name: str, argument: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(argument)) as caught:
        gate(Disk(b""), name, argument)
    assert fix in str(caught.value)


def test_qemu_sees_through_all_filters(tmp_path: Path) -> None:
    need("qemu-io")
    disk = tmp_path / "disk"
    disk.write_bytes(b"\x11" * MIB)
    filters = [f"--filter={name}" for name in ("log", "delay", "cow", "nozero", "noextents")]
    filters += ["--filter=error", "--filter=truncate", "--filter=offset"]
    arguments = ("file", str(disk), "offset=64k", "round-up=2M", f"logfile={tmp_path / 'log'}")
    with Server("-n", *filters, *arguments) as server:
        script = ["write -P 1 1000 5000", "write -z 64k 128k", "discard 512k 64k", "flush"]
        script += ["read -P 0x11 0 1000", "read -P 1 1000 5000", "read -P 0 64k 128k"]
        script += ["read -P 0 960k 64k", "write -P 2 1023k 1k"]  # past the end: cow makes it real
        words = [word for command in script for word in ("-c", command)]
        output("qemu-io", "-f", "raw", *words, server.uri)
        output("qemu-io", "-f", "raw", "-c", "read -P 2 1023k 1k", server.uri)
    assert disk.read_bytes() == b"\x11" * MIB


def test_an_export_is_a_plain_export_to_its_filter() -> None:
    """Facts that no filter changes are those of the disk."""

    class Slow(Disk):
        def is_rotational(self) -> bool:
            return True

        def description(self) -> str:
            return "a slow disk"

    assert isinstance(Slow(b""), Export)
    for name in load.available(load.FILTER):
        declared = parameters_of(load.find(name, load.FILTER).plugin_class).values()
        if name in NEEDING_CONTENT or any(parameter.required for parameter in declared):
            continue
        if issubclass(load.find(name, load.FILTER).plugin_class, UnpackFilter):
            continue  # it would have to be compressed
        top = gate(Slow(bytes(SIZE)), name)
        assert (top.is_rotational, top.description) == (True, "a slow disk"), name
