"""The file plugin: regular files and block devices; see `test_file_directories`."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.errors import UnknownExport
from nbdfork.backend.exports import Exports
from nbdfork.backend.load import find
from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    MAY_TRIM,
    ConfigError,
    DescriptorExport,
    Export,
)
from tests.support.harness import Server, let_all_reach, need, output, run
from tests.support.plugins import plugin

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * SIZE)
    return path


@contextmanager
def block_device(disk: Path, *options: str) -> Iterator[Path]:
    need("losetup")
    if os.geteuid() != 0:
        pytest.skip("only root can make a block device")
    device = output("losetup", "--find", "--show", *options, disk).strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def loop(disk: Path) -> Iterator[Path]:
    """A block device."""
    with block_device(disk) as device:
        yield device


def open_file(path: Path, read_only: bool = False) -> Export:
    return plugin("file", str(path)).open("", read_only)


def test_file_reads_and_writes(disk: Path) -> None:
    export = open_file(disk)
    assert export.get_size() == SIZE
    export.pwrite(memoryview(b"hello"), 1000, 0)
    export.pwrite(memoryview(b"durable"), 2000, FUA)
    export.flush()
    assert export.pread(7, 999) == b"xhellox"
    export.close()
    assert disk.read_bytes()[2000:2007] == b"durable"
    assert disk.stat().st_size == SIZE


@pytest.mark.parametrize(
    ("flags", "allocated"), [(0, True), (MAY_TRIM, False), (MAY_TRIM | FAST_ZERO, False)]
)
def test_file_zeroes(disk: Path, flags: int, allocated: bool) -> None:
    export = open_file(disk)
    export.zero(SIZE // 2, 0, flags)
    export.flush()
    export.close()
    assert disk.read_bytes() == bytes(SIZE // 2) + b"x" * (SIZE // 2)
    assert (disk.stat().st_blocks * 512 >= SIZE) == allocated


def test_file_trims(disk: Path) -> None:
    export = open_file(disk)
    export.trim(SIZE // 2, 0, FUA)
    export.close()
    assert disk.stat().st_blocks * 512 <= SIZE // 2 + 65536
    assert disk.stat().st_size == SIZE


def test_file_without_zero_range(tmp_path: Path) -> None:
    """On tmpfs a range that must stay allocated is punched and allocated again."""
    path = Path("/dev/shm") / f"nbdfork-{os.getpid()}"
    path.write_bytes(b"x" * SIZE)
    try:
        export = open_file(path)
        export.zero(SIZE, 0, 0)
        export.close()
        assert path.read_bytes() == bytes(SIZE)
        assert path.stat().st_blocks * 512 >= SIZE
    finally:
        path.unlink()


def test_file_says_how_it_zeroes(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = plugin("file", str(disk))
    made.debug["zero"] = 1
    export = made.open("", False)
    with caplog.at_level(logging.DEBUG):
        export.zero(4096, 0, MAY_TRIM)
        export.trim(4096, 0, 0)
    export.close()
    assert caplog.messages == [
        "zero of 4096 bytes at 0: punch_hole",
        "trim of 4096 bytes at 0: punch_hole",
    ]


def test_file_that_shrinks(disk: Path) -> None:
    export = open_file(disk)
    os.truncate(disk, 1000)
    with pytest.raises(OSError, match="has become shorter"):
        export.pread(100, 950)
    export.close()


def test_file_on_a_full_device() -> None:
    fd = os.open("/dev/full", os.O_RDWR)
    export = DescriptorExport(fd, writable=True)
    with pytest.raises(OSError) as caught:
        export.pwrite(memoryview(b"x"), 0, 0)
    assert caught.value.errno == errno.ENOSPC
    export.close()


def test_file_is_read_only_where_it_must_be(disk: Path) -> None:
    assert open_file(disk).can_write()
    export = open_file(disk, read_only=True)
    assert not export.can_write()
    with pytest.raises(OSError) as caught:
        export.pwrite(memoryview(b"x"), 0, 0)
    assert caught.value.errno == errno.EBADF  # it is not even opened for writing


def test_file_without_permission_to_write_is_served_read_only(tmp_path: Path) -> None:
    need("nbdinfo")
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    let_all_reach(tmp_path)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SIZE))
    disk.chmod(0o644)
    with Server("-u", "nobody", "file", disk, listen=("-p", "0", "-i", "127.0.0.1")) as server:
        assert "is_read_only: true" in output("nbdinfo", server.uri)
    with Server("-n", "-u", "nobody", "file", disk, listen=("-p", "0", "-4")) as server:
        disk.chmod(0o600)  # at the start, it would be refused
        done = run("nbdinfo", server.uri)
        assert done.returncode != 0
        assert f"the export '' cannot be opened: {disk}: Permission denied" in server.log


def test_file_that_goes_away_is_no_export(disk: Path) -> None:
    chain = Chain(Layer("file", find("file").plugin_class()))
    chain.configure([str(disk)])
    disk.unlink()
    with pytest.raises(UnknownExport):
        Exports(chain).open("")


@pytest.mark.parametrize("target", ["/dev/zero", "/", None])
def test_file_that_becomes_something_else_is_refused(disk: Path, target: str | None) -> None:
    chain = Chain(Layer("file", find("file").plugin_class()))
    chain.configure([str(disk)])
    disk.unlink()
    if target is None:
        os.mkfifo(disk)
    else:
        disk.symlink_to(target)
    with pytest.raises(OSError, match=f"neither a regular file nor a block device: '{disk}'"):
        Exports(chain).open("")


def test_file_advice(disk: Path) -> None:
    for advice in ("normal", "random", "sequential"):
        plugin("file", str(disk), f"fadvise={advice}").open("", True).close()
    with pytest.raises(ConfigError, match="expected one of"):
        plugin("file", str(disk), "fadvise=never")


def test_fua_makes_just_this_write_durable(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    pwrite, pwritev = os.pwrite, os.pwritev

    def watch(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        modes.append(flags)
        return pwritev(fd, [buffers[0][:300]], offset, flags)  # and only a part at a time

    def watch_plain(fd: int, data: memoryview, offset: int) -> int:
        modes.append(0)
        return pwrite(fd, data[:200], offset)

    monkeypatch.setattr(os, "pwritev", watch)
    monkeypatch.setattr(os, "pwrite", watch_plain)
    export = open_file(disk)
    export.pwrite(memoryview(b"a" * 1000), 0, FUA)
    export.pwrite(memoryview(b"b" * 300), 1000, 0)
    export.close()
    assert modes == [os.RWF_DSYNC] * 4 + [0] * 2
    assert disk.read_bytes()[:1301] == b"a" * 1000 + b"b" * 300 + b"x"


def test_block_device(loop: Path, disk: Path) -> None:
    export = open_file(loop)
    assert export.get_size() == SIZE
    export.is_rotational()
    export.pwrite(memoryview(b"hello"), 1000, FUA)
    assert export.pread(7, 999) == b"xhellox"
    export.zero(8192, 4096, 0)
    export.zero(8192, 16384, MAY_TRIM)
    export.trim(10000, 32768 - 100, 0)
    export.zero(2000, 100_000, FUA)
    with pytest.raises(OSError, match="no way to zero this range"):
        export.zero(100, 100, 0)
    export.flush()
    export.close()
    data = disk.read_bytes()
    assert data[1000:1005] == b"hello"
    assert data[100_000 - 1 : 102_001] == b"x" + bytes(2000) + b"x"  # not whole sectors
    assert data[4096 : 4096 + 8192] == bytes(8192)
    assert data[16384 : 16384 + 8192] == bytes(8192)
    assert data[32768 - 512 : 32768] == b"x" * 512  # only whole sectors were discarded
    assert data[24576:28672] == b"x" * 4096


def test_read_only_block_device(disk: Path) -> None:
    """The system lets it be opened for writing, and then each write fails."""
    with block_device(disk, "--read-only") as device:
        export = open_file(device)
        assert not export.can_write()
        assert export.pread(3, 0) == b"xxx"
        export.close()


def test_block_device_through_the_server(loop: Path) -> None:
    need("qemu-io")
    with Server("-n", "file", loop) as server:
        commands = ["write -P 7 0 64k", "write -z 16k 16k", "discard 48k 16k", "read -P 7 0 16k"]
        commands += ["read -P 0 16k 16k", "write -z 100 1000", "read -P 0 100 1000"]
        words = [word for command in commands for word in ("-c", command)]
        output("qemu-io", "-f", "raw", *words, server.uri)
