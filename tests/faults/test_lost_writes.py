"""A disk that loses what was written: each client is told, and those who come later, too."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty import Shim, thin_device
from tests.support.harness import Server
from tests.support.libnbd import connected, fails, libnbd

MIB = 1 << 20


def is_told(client: Any) -> bool:
    """Return whether a flush of the client fails."""
    try:
        client.flush()
    except libnbd().Error as error:
        return str(error.errno) == "EIO"
    return False


@pytest.fixture
def shim(tmp_path: Path) -> Shim:
    return Shim(tmp_path)


def test_a_disk_that_loses_writes(tmp_path: Path) -> None:
    """By the real kernel: clients of the time are told by it, those who come later by us."""
    with thin_device(tmp_path, 4 * MIB, 16 * MIB) as device, Server("-n", "file", device) as server:
        with ExitStack() as stack:
            writer, other = (stack.enter_context(connected(server.uri)) for _ in range(2))
            writer.pwrite(b"x" * 8 * MIB, 0)
            assert is_told(other)
            assert is_told(writer)
            assert not is_told(other)
            assert not is_told(writer)
        for _ in range(2):  # the writer comes again, or somebody else; nobody can know
            with connected(server.uri) as late:
                late.pread(4096, 0)
                assert is_told(late)
                assert not is_told(late)
        assert server.log.count("until the server is started anew") == 1


FILES = {
    "file": ("file", "DISK"),
    "dir": ("file", "dir=.", "-e", "DISK"),
    "split": ("split", "DISK"),
    "partitioning": ("partitioning", "DISK"),
    "fsspec": ("fsspec", "file://DISK"),
    "filters": ("--filter=log", "--filter=offset", "file", "DISK", "logfile=/dev/null"),
}


@pytest.mark.parametrize("words", FILES.values(), ids=FILES)
def test_every_disk_on_files_remembers(tmp_path: Path, shim: Shim, words: tuple[str, ...]) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    if "dir=." in words:
        words = ("file", f"dir={tmp_path}", "-e", "disk")
    arguments = [word.replace("DISK", str(disk)) for word in words]
    with Server("-n", *arguments, environment=shim.environment) as server:
        with connected(server.uri) as first, connected(server.uri) as second:
            end = first.get_size() - 4096
            first.pwrite(b"x" * 512, end)
            assert not is_told(first)
            with shim.broken():
                assert is_told(first)
            assert is_told(second)  # which the system of this test tells nobody
            assert not is_told(first)
            assert not is_told(second)
        with connected(server.uri) as late:
            with fails("EIO"):
                late.pwrite(b"x" * 512, end, libnbd().CMD_FLAG_FUA)
            late.pwrite(b"x" * 512, end, libnbd().CMD_FLAG_FUA)
            assert not is_told(late)


def test_a_write_with_fua_that_fails_is_remembered(tmp_path: Path, shim: Shim) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    with Server("-n", "file", disk, environment=shim.environment) as server:
        with connected(server.uri) as first:
            with shim.broken(), fails("EIO"):
                first.pwrite(b"x" * 512, 0, libnbd().CMD_FLAG_FUA)
            assert not is_told(first)
        with connected(server.uri) as late:
            assert is_told(late)
    with Server("-n", "file", disk, environment=shim.environment) as again:
        with connected(again.uri) as client:
            assert not is_told(client)
