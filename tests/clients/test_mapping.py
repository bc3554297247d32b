"""Sending from a mapped file, to clients that read while it is cut off, or becomes a hole."""

import os
import threading
from pathlib import Path

import pytest

from tests.support.harness import Server
from tests.support.libnbd import connected, fails, libnbd
from tests.support.raw import Client
from tests.support.small import seen, small

MIB = 1 << 20


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


@pytest.mark.parametrize("threads", ["1", "4"])
def test_holes_made_on_a_full_disk_while_they_are_sent(tmp_path: Path, threads: str) -> None:
    """To send a hole from memory takes space for it, and there is none: it is read instead."""
    size = 8 * MIB
    within = small(tmp_path, size, size)
    disk = tmp_path / "disk"
    with Server("-o", "-t", threads, "file", disk, within=within) as server:
        one, other = Client(server).greet(), Client(server).greet()
        assert one.write(b"x" * size) == 0
        one.request(0, 0, size)
        first = one.receive(16 + MIB)  # the server waits now, in the middle of the reply
        other.request(4, 0, size)
        assert other.reply() == (0, b"")  # trimmed
        with seen(server, tmp_path / "more").open("wb", 0) as more:
            assert more.write(bytes(2 * size)) <= size
        data = first[16:] + one.receive(size - MIB)
        assert data == b"x" * data.index(b"\0") + bytes(size - data.index(b"\0"))
        assert one.read(0, size) == bytes(size)
        assert one.write(b"y" * 512) == 28  # the disk is full: ENOSPC
        one.close()
        other.close()


def test_a_disk_that_is_cut_off_while_it_is_sent_costs_the_connection(tmp_path: Path) -> None:
    """Its reply has said already that all is well."""
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 8 * MIB)
    with Server("-o", "file", path) as server:
        client = Client(server).greet()
        client.request(0, 0, 8 * MIB)
        assert client.receive(MIB)
        os.truncate(path, 0)
        with pytest.raises(EOFError):
            client.receive(8 * MIB)
        client.close()
        assert "READ of " in server.log
        assert "the file has become shorter" in server.log
