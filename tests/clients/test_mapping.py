"""Sending from a mapped file: only what is in memory, and never at the price of the process."""

import os
import threading
from pathlib import Path

from nbdfork.plugin.descriptor import DescriptorExport
from nbdfork.plugin.mapping import Mapping
from tests.support.harness import Server
from tests.support.libnbd import connected, fails, libnbd

MIB = 1 << 20


def test_what_is_in_memory_can_be_viewed(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    path = tmp_path / "disk"
    path.write_bytes(data)
    with path.open("rb") as file:
        mapping = Mapping(file.fileno(), MIB)
        for offset, count in ((0, MIB), (1, MIB - 1), (4095, 100_000), (MIB - 70_000, 70_000)):
            view = mapping.resident(count, offset)
            assert view is not None
            assert view.readonly
            assert view == data[offset : offset + count]


def test_what_is_not_in_memory_is_read() -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, MIB)
    os.pwrite(fd, bytes(65536), 0)
    export = DescriptorExport(fd, writable=True)
    assert export.view(65536, 0) is not None
    assert export.view(65537, 0) is None
    assert export.view(65536, 512 * 1024) is None
    assert export.pread(65536, 512 * 1024) == bytes(65536)
    assert os.fstat(fd).st_blocks * 512 == 65536  # reading has filled no hole
    export.close()


def test_what_was_cut_off_is_not_viewed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    export = DescriptorExport(os.open(path, os.O_RDONLY), writable=False)
    assert export.view(MIB, 0) is not None
    os.truncate(path, 512 * 1024)
    assert export.view(MIB, 0) is None
    assert export.view(65536, 900_000) is None
    assert export.view(65536, 0) is not None
    export.close()


def test_an_empty_file_has_nothing_to_map(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    with path.open("rb") as file:
        assert Mapping(file.fileno(), 0).resident(65536, 0) is None


def test_what_was_cut_off_does_not_read_as_zeroes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(8 * MIB))
    with Server("-n", "file", path) as server, connected(server.uri) as client:
        os.truncate(path, 4 * MIB)
        for count in (4096, 128 * 1024, MIB):
            with fails("EIO"):
                client.pread(count, 6 * MIB)
        assert client.pread(MIB, 0) == path.read_bytes()[:MIB]


def test_a_file_that_is_cut_while_it_is_served(tmp_path: Path) -> None:
    """Each read succeeds, fails, or at worst costs the connection; no worker is killed."""
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 4 * MIB)
    stop = threading.Event()

    def cut() -> None:
        while not stop.is_set():
            os.truncate(path, MIB)
            path.write_bytes(b"x" * 4 * MIB)

    thread = threading.Thread(target=cut)
    good = 0
    with Server("-n", "-r", "file", path) as server:
        thread.start()
        try:
            while good < 300:
                good += read_some(server.uri)
        finally:
            stop.set()
            thread.join()
        assert "signal" not in server.log


def read_some(uri: str) -> int:
    """Read a part that comes and goes until the connection is lost; return how often it worked."""
    client = libnbd().NBD()
    client.connect_uri(uri)
    good = 0
    for _ in range(100):
        try:
            data = client.pread(MIB, min(3 * MIB, client.get_size() - MIB))
        except libnbd().Error:
            if client.aio_is_dead():
                break
            continue
        assert not data.strip(b"x\0")  # zeroes: what is read while it is being cut off
        good += 1
    return good
