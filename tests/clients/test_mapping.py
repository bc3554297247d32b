"""Sending from a mapped file, at clients that read while it is cut off."""

import os
import threading
from pathlib import Path

from tests.support.harness import Server
from tests.support.libnbd import connected, fails, libnbd

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
