"""The nbd plugin's server goes away, and comes back."""

import errno
import logging
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from nbdfork.plugin import (
    FUA,
)
from tests.support.far import far_nbdkit
from tests.support.harness import (
    Server,
    eventually,
    refused,
)
from tests.support.libnbd import connected, fails
from tests.support.nbd import (
    CONTENT,
    MIB,
    opened,
    plugin,
    reads,
)
from tests.support.piped import WAYS, piped

pytestmark = pytest.mark.usefixtures("needs_libnbd")


@pytest.mark.parametrize("shared", ["false", "true"])
def test_a_server_that_comes_back(place: Path, shared: str) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        words = ["nbd", f"socket={far.path}", f"shared={shared}"]
        with Server("-n", *words) as server, connected(server.uri) as client:
            assert client.pread(512, 0) == CONTENT[:512]
            far.kill()
            with fails("EIO"):
                client.pread(512, 0)
            far.start()
            assert client.pread(512, 512) == CONTENT[512:1024]
            far.kill()
            far.start()  # between two requests
            client.pwrite(b"data", 0)
            client.flush()
            assert (place / "disk.img").read_bytes()[:4] == b"data"
            assert f"{far.path}: " in server.log


def test_a_server_that_is_late(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    far = far_nbdkit(place, "file", place / "disk.img")
    with refused(errno.EIO, f"{far.path}: .*[Cc]onnect"):
        reads(f"socket={far.path}")
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(reads, f"socket={far.path}", "retry=10")
        eventually(lambda: "trying again" in caplog.text)
        with far:
            assert patient.result()


@pytest.mark.parametrize("way", WAYS)
def test_requests_under_way_when_the_server_dies(place: Path, way: str) -> None:
    disk = f"{place}/disk.img"
    log = place / "log"
    words = ["--filter=log", "--filter=delay", "file", disk, f"logfile={log}"]
    words += ["delay-read=1", "delay-write=1"]
    with (
        far_nbdkit(place, *words) as far,
        opened(f"socket={far.path}", "retry=9") as made,
        WAYS[way](made) as export,
    ):
        with ThreadPoolExecutor(16) as pool:
            data = memoryview(b"x" * 4096)
            read = [pool.submit(export.pread, 4096, n * 4096) for n in range(8)]
            written = [pool.submit(export.pwrite, data, MIB + n * 4096, 0) for n in range(8)]
            eventually(lambda: len(re.findall(r" (?:Read|Write) id=", log.read_text())) >= 16)
            assert not any(one.done() for one in read)
            assert not any(one.done() for one in written)
            far.kill()
            far.start()
            found = [bytes(one.result()) for one in read]
            for one in written:
                one.result()
        assert found == [CONTENT[n * 4096 : (n + 1) * 4096] for n in range(8)]
        assert bytes(export.pread(8 * 4096, MIB)) == b"x" * 8 * 4096


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_shutting_down(place: Path, way: str) -> None:
    shutting_down = place / "shutting-down"
    words = ["error-pread=ESHUTDOWN", "error-pread-rate=100%", f"error-pread-file={shutting_down}"]
    with far_nbdkit(place, "--filter=error", "memory", "1M", *words) as far:
        with opened(f"socket={far.path}") as made, WAYS[way](made) as export:
            export.pwrite(memoryview(b"data"), 0, 0)
            shutting_down.touch()
            with refused(errno.EIO, "the connection is lost"):
                export.pread(4, 0)
            shutting_down.unlink()
            assert bytes(export.pread(4, 0)) == b"data"


def test_a_host_that_is_gone_is_noticed(place: Path) -> None:
    with Server("-n", "file", place / "disk.img", listen=("-i", "127.0.0.1", "-p", "0")) as far:
        with opened(far.uri):
            [link] = [
                connection
                for connection in psutil.Process().net_connections("tcp4")
                if connection.raddr and connection.raddr.port == far.port
            ]
            with socket.socket(fileno=os.dup(link.fd)) as found:
                assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("way", WAYS)
def test_writes_that_may_be_forgotten(place: Path, way: str) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        with opened(f"socket={far.path}") as made, WAYS[way](made) as export:
            export.pwrite(memoryview(b"flushed"), 0, 0)
            export.flush()
            export.pwrite(memoryview(b"forced"), 0, FUA)
            far.kill()
            far.start()
            export.flush()
            export.pwrite(memoryview(b"neither"), 0, 0)
            far.kill()
            far.start()
            with refused(errno.EIO, "lost after writes that had not been flushed"):
                export.flush()
            export.flush()


def test_each_client_of_a_link_is_told_of_writes_that_may_be_forgotten(place: Path) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        made = plugin(f"socket={far.path}", "shared=true")
        with closing(made.open("", False)) as writer, closing(made.open("", False)) as other:
            writer.pwrite(memoryview(b"data"), 0, 0)
            far.kill()
            far.start()
            for client in (writer, other):  # whose flush may be to cover the other's writes
                with refused(errno.EIO, "lost after writes that had not been flushed"):
                    client.flush()
                client.flush()
            with closing(made.open("", False)) as later:
                later.flush()


def test_a_client_is_not_told_of_what_another_connection_has_lost(place: Path) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        with opened(f"socket={far.path}") as writer, opened(f"socket={far.path}") as other:
            writer.pwrite(memoryview(b"data"), 0, 0)
            far.kill()
            far.start()
            other.flush()
            with refused(errno.EIO, "lost after writes that had not been flushed"):
                writer.flush()
            other.flush()


@pytest.mark.parametrize(
    ("read_only", "shared", "expected"),
    [(False, "false", False), (True, "false", True), (False, "true", True), (True, "true", True)],
)
def test_who_may_use_many_connections(
    read_only: bool, shared: str, expected: bool, place: Path
) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        export = plugin(f"socket={far.path}", f"shared={shared}").open("", read_only)
        assert export.can_multi_conn() == expected
        export.close()


def test_another_export_when_the_server_comes_back(place: Path) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        with opened(f"socket={far.path}") as export:
            far.kill()
            os.truncate(place / "disk.img", MIB)
            far.start()
            with refused(errno.EIO, f"changed: its size was {2 * MIB} and is {MIB}"):
                export.pread(512, 0)


def test_many_are_under_way_at_once_in_one_thread(place: Path) -> None:
    log = place / "log"
    words = ["--filter=log", "--filter=delay", "file", f"{place}/disk.img", f"logfile={log}"]
    with far_nbdkit(place, *words, "delay-read=1") as far:
        with opened(f"socket={far.path}") as made, piped(made) as export:
            with ThreadPoolExecutor(8) as pool:
                read = [pool.submit(export.pread, 4096, n * 4096) for n in range(8)]
                eventually(lambda: len(re.findall(r" Read id=", log.read_text())) >= 8)
                assert not any(one.done() for one in read)
                found = [bytes(one.result()) for one in read]
        assert found == [CONTENT[n * 4096 : (n + 1) * 4096] for n in range(8)]
        assert export.unfinished == 0
