"""The ssh plugin's far end goes away, and comes back."""

import errno
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil

from tests.support.harness import Server, eventually, refused
from tests.support.libnbd import connected, fails
from tests.support.noise import CONTENT
from tests.support.ssh import MIB, opened, write
from tests.support.sshd import Sshd


def test_a_connection_that_is_lost_is_made_again(host: Sshd) -> None:
    path = host.file("lost", bytes(MIB))
    with opened(*host.way, path) as export:
        host.end_sessions()
        assert bytes(export.pread(4096, 0)) == bytes(4096)
        host.end_sessions()
        write(export, b"data", 0)
        export.flush()
        assert path.read_bytes()[:4] == b"data"
        host.end_sessions()
        export.flush()  # nothing was left to flush


def test_writes_that_may_be_forgotten(host: Sshd) -> None:
    path = host.file("forgotten", bytes(MIB))
    with opened(*host.way, path) as export:
        write(export, b"data", 0)
        host.end_sessions()
        write(export, b"more", 4)
        with refused(errno.EIO, "lost after writes that had not been flushed"):
            export.flush()
        export.flush()
    assert path.read_bytes()[:8] == b"datamore"


def test_who_writes_may_not_use_many_connections(host: Sshd) -> None:
    path = host.file("written", bytes(MIB))
    with opened(*host.way, path) as export, opened(*host.way, path) as other:
        assert not export.can_multi_conn()  # for a flush does not cover what others have written:
        write(other, b"data", 0)
        host.end_sessions()
        export.flush()
        with refused(errno.EIO, "lost after writes that had not been flushed"):
            other.flush()
        export.flush()


def test_requests_under_way_are_made_again(host: Sshd) -> None:
    path = host.file("under way", CONTENT)
    with opened(*host.way, path) as export:
        offsets = [n * 4096 for n in range(256)] * 8
        read = threading.Semaphore(0)

        def disturb() -> None:
            """End the sessions each time that the disk has been read once more, but the last."""
            for number in range(1, len(offsets) - 255):
                read.acquire()
                if number % 256 == 0:
                    host.end_sessions()

        def pread(offset: int) -> bytes:
            try:
                return bytes(export.pread(4096, offset))
            finally:
                read.release()

        disturber = threading.Thread(target=disturb)
        disturber.start()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(pread, offsets))
        disturber.join()
        assert found == [CONTENT[at : at + 4096] for at in offsets]


def test_sshd_dies_and_comes_back() -> None:
    with Sshd() as host:
        path = host.directory / "disk"
        with Server("-n", "ssh", *host.way, path) as server:
            with connected(server.uri) as client:
                assert client.pread(512, 0) == CONTENT[:512]
                host.stop()
                with fails("EIO"):
                    client.pread(512, 0)
                host.start()
                assert client.pread(512, MIB) == CONTENT[MIB : MIB + 512]
            log = server.log
    assert "127.0.0.1:" in log
    assert "Connection refused" in log


def test_a_file_that_has_changed_when_it_is_opened_again(host: Sshd) -> None:
    path = host.file("changing", CONTENT)
    with opened(*host.way, path) as export:
        os.truncate(path, MIB)
        host.end_sessions()
        with refused(errno.EIO, f"its size was {len(CONTENT)} bytes and is {MIB}"):
            export.pread(512, 0)


def test_a_host_that_falls_silent(host: Sshd) -> None:
    with opened(*host.way, host.directory / "disk", "timeout=2") as export:
        for session in host.sessions():
            session.send_signal(signal.SIGSTOP)
        assert bytes(export.pread(9, 9)) == CONTENT[9:18]
        host.end_sessions()


def test_no_ssh_is_left_behind(host: Sshd) -> None:
    with opened(*host.way, host.directory / "disk"):
        assert [one.name() for one in psutil.Process().children()].count("ssh") == 1
    assert [one.name() for one in psutil.Process().children()].count("ssh") == 0
    with Server("-n", "ssh", *host.way, host.directory / "disk") as server:
        with connected(server.uri):
            [worker] = server.serving()
            [ssh] = worker.children()
            worker.kill()
            eventually(lambda: not ssh.is_running())
