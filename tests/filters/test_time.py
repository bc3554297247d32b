"""The filters that wait: rate and its bucket, spinning, pause, retry and retry-request."""

import errno
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from nbdfork.filters._bucket import SharedBucket
from nbdfork.filters.spinning import Arms, Spinning
from nbdfork.plugin import Export
from nbdfork.plugin import Server as Handle
from tests.support.disks import KIB, SIZE, Disk, exports, gate
from tests.support.harness import SECONDS, Server, eventually, refused
from tests.support.libnbd import connect, connected, libnbd
from tests.support.noise import noise


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(Handle, "wait", self._wait)

    def _wait(self, seconds: float, events: object = None) -> dict[int, int]:
        self.waits.append(seconds)
        self.now += seconds
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# -- the bucket, and rate ---------------------------------------------------------------------


def test_a_bucket_holds_some_seconds_of_tokens_and_fills_again(clock: Clock) -> None:
    bucket = SharedBucket(100, burst=2)
    assert bucket.draw(200) == 0
    assert bucket.draw(100) == pytest.approx(1)
    clock.now += 1
    assert bucket.draw(50) == pytest.approx(0.5)
    bucket.put_back(50)
    assert bucket.draw(10) == pytest.approx(0.1)
    clock.now += 1000
    assert bucket.draw(200) == 0
    assert bucket.draw(1) == pytest.approx(0.01)


def test_a_bucket_without_a_rate_has_any_number() -> None:
    bucket = SharedBucket(0, burst=2)
    assert bucket.draw(1e18) == 0


def test_a_bucket_is_shared_and_free_when_a_worker_that_had_its_lock_was_killed() -> None:
    bucket = SharedBucket(1, burst=10)
    ready, told = os.pipe()
    if (child := os.fork()) == 0:
        bucket.draw(10)
        with bucket._lock:
            os.write(told, b"x")
            signal.pause()
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert bucket.draw(10) == pytest.approx(10, abs=1)


def test_clients_wait_for_their_own_rate_and_for_that_of_all(clock: Clock) -> None:
    found = exports(Disk(noise(SIZE)), "rate", "rate=64K", "connection-rate=16K", "burstiness=1")
    one, two = found.open(""), found.open("")
    one.pread(2048, 0)
    assert clock.waits == []
    one.pread(2048, 0)
    assert clock.waits == [pytest.approx(1)]
    two.pwrite(memoryview(bytes(2048)), 0, fua=False)  # which is counted apart
    two.zero(SIZE, 0, may_trim=True, fast=False, fua=False)
    assert len(clock.waits) == 1


def test_a_file_changes_the_rate(clock: Clock, tmp_path: Path) -> None:
    control = tmp_path / "rate"
    top = gate(Disk(noise(SIZE)), "rate", f"rate-file={control}", "burstiness=1")
    top.pread(16 * KIB, 0)
    control.write_text("8K\n")
    clock.now += 2
    top.pread(2048, 0)
    assert clock.waits == [pytest.approx(1)]
    control.write_text("nonsense")
    clock.now += 2
    top.pread(2048, 0)
    assert len(clock.waits) == 2
    control.unlink()
    clock.now += 2
    top.pread(2048, 0)
    assert len(clock.waits) == 3


def test_clients_in_different_processes_share_a_rate() -> None:
    """With as much as both want at once, the second has to wait for what the first has taken."""
    with Server("-n", "--filter=rate", "memory", "1M", "rate=4M", "burstiness=0.25") as server:
        start = time.monotonic()
        with connected(server.uri) as one, connected(server.uri) as two:
            one.pread(128 * KIB, 0)  # all that is in the bucket
            two.pread(128 * KIB, 0)
        assert time.monotonic() - start > 0.2


# -- spinning ---------------------------------------------------------------------------------


def test_seeking_takes_longer_the_farther_it_is() -> None:
    disk = Spinning()
    disk.config_complete()
    assert [disk.seek_time(way) for way in (0, 0.5, 1)] == pytest.approx([0.01, 0.2, 0.5])


def test_requests_wait_for_the_arm(clock: Clock) -> None:
    top = gate(Disk(bytes(1000 * KIB)), "spinning")
    assert top.is_rotational
    top.pread(512, 500 * KIB)
    top.pread(512, 500 * KIB + 512)  # it is there
    top.pread(512, 0)
    assert clock.waits == [pytest.approx(0.2, rel=0.1), pytest.approx(0.2, rel=0.1)]


def test_an_arm_that_moves_is_not_free(clock: Clock) -> None:
    arms = Arms(2)
    assert arms.move(0, 0.5, lambda way: way) == 0.5
    assert arms.move(0, 1.0, lambda way: way) == 1.0
    assert arms.move(1, 0.25, lambda way: way) == 0.25
    clock.now += 5
    assert arms.move(0, 0.5, lambda way: way) == 0.5


def test_heads_that_are_apart_move_apart(clock: Clock) -> None:
    top = gate(Disk(bytes(1000 * KIB)), "spinning", "heads=2", "separate-heads=true")
    top.pread(512, 0)
    top.pread(512, 500 * KIB)
    assert clock.waits == []
    top = gate(Disk(bytes(1000 * KIB)), "spinning", "heads=2")
    top.pread(512, 750 * KIB)  # half of the way of the second head
    assert clock.waits == [pytest.approx(0.2, rel=0.1)]


# -- pause ------------------------------------------------------------------------------------


def tell(path: Path, word: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(SECONDS)
        control.connect(str(path))
        control.sendall(word)
        return control.recv(1)


def test_requests_stop_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "control"
    arguments = ("--filter=pause", "memory", "1M", f"pause-control={path}")
    with Server("-n", *arguments) as server:
        with connected(server.uri) as client:
            client.pread(512, 0)
            assert tell(path, b"p") == b"P"
            assert tell(path, b"p") == b"P"
            assert tell(path, b"?") == b"X"
            done = threading.Event()

            def read() -> None:
                with connected(server.uri) as other:
                    other.pread(512, 0)
                done.set()

            thread = threading.Thread(target=read)
            thread.start()
            eventually(lambda: len(server.serving()) == 2)
            assert not done.is_set()
            assert tell(path, b"r") == b"R"
            thread.join(SECONDS)
            assert done.is_set()
            client.pread(512, 0)
    assert not path.exists()


def test_who_pauses_waits_for_what_is_under_way(tmp_path: Path) -> None:
    path = tmp_path / "control"
    arguments = ("--filter=pause", "--filter=delay", "memory", "1M", f"pause-control={path}")
    with (
        Server("-n", "-v", *arguments, "rdelay=300ms") as server,
        connected(server.uri) as client,
    ):
        command = client.aio_pread(libnbd().Buffer(512), 0)
        eventually(lambda: "pread(512" in server.log)
        assert tell(path, b"p") == b"P"

        def is_answered() -> bool:  # for what is paused has been carried out before
            client.poll(0)
            return bool(client.aio_command_completed(command))

        eventually(is_answered)
        assert tell(path, b"r") == b"R"


def test_a_worker_that_is_killed_in_a_request_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "control"
    arguments = ("--filter=pause", "--filter=delay", "memory", "1M", f"pause-control={path}")
    with Server("-n", *arguments, "wdelay=30") as server:
        client = connect(server.uri)
        client.aio_pwrite(libnbd().Buffer(512), 0)
        [worker] = eventually(server.serving)
        worker.kill()
        assert tell(path, b"p") == b"P"
        assert tell(path, b"r") == b"R"
        del client


# -- retry, retry-request ---------------------------------------------------------------------


class Failing(Disk):
    """a disk that fails so many times"""

    def __init__(self, times: int, number: int = errno.EIO) -> None:
        super().__init__(noise(SIZE))
        self.times = times
        self.number = number
        self.opened: list[bool] = []
        self.closed = 0

    def open(self, export_name: str, read_only: bool) -> Export:
        self.opened.append(read_only)
        return self

    def close(self) -> None:
        self.closed += 1

    def _check(self, name: str, count: int, offset: int) -> None:
        if self.times:
            self.times -= 1
            raise OSError(self.number, "as it was told to")
        super()._check(name, count, offset)


def test_a_disk_is_opened_again_when_a_request_fails(clock: Clock) -> None:
    disk = Failing(3)
    top = gate(disk, "retry", "retry-delay=1")
    assert top.pread(100, 5) == noise(SIZE)[5:105]
    assert clock.waits == [1, 2, 4]
    assert (len(disk.opened), disk.closed) == (4, 3)
    top.pwrite(memoryview(b"data"), 0, fua=False)
    disk.times = 1
    assert top.extents(SIZE, 0, 0)
    top.close()
    assert disk.closed == 5


def test_in_the_end_retry_gives_up(clock: Clock) -> None:
    disk = Failing(100)
    with refused(errno.EIO, "as it was told to"):
        gate(disk, "retry", "retries=2", "retry-exponential=no").pread(1, 0)
    assert clock.waits == [2, 2]
    with refused(errno.EIO):
        gate(Failing(1), "retry", "retries=0").pread(1, 0)


def test_a_disk_can_be_read_only_from_the_first_failure_on(clock: Clock) -> None:
    disk = Failing(1)
    gate(disk, "retry", "retry-readonly=yes").pread(1, 0)
    assert disk.opened == [False, True]


def test_another_disk_is_not_taken_for_the_same(clock: Clock) -> None:
    class Growing(Failing):
        def get_size(self) -> int:
            return SIZE + self.closed

    with refused(errno.ESTALE, "not the same disk"):
        gate(Growing(1), "retry", "retries=2").pread(1, 0)


def test_a_disk_that_cannot_be_opened_at_first_is_tried_again(clock: Clock) -> None:
    class Late(Failing):
        def open(self, export_name: str, read_only: bool) -> Export:
            super().open(export_name, read_only)
            if len(self.opened) < 3:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "not yet")
            return self

    for name in ("retry", "retry-request"):
        assert gate(Late(0), name).pread(1, 0) == noise(SIZE)[:1]
    with refused(errno.ECONNREFUSED):
        gate(Late(0), "retry-request", "retry-request-open=false")


def test_single_requests_are_tried_again(clock: Clock) -> None:
    disk = Failing(2)
    top = gate(disk, "retry-request")
    assert top.pread(100, 5) == noise(SIZE)[5:105]
    assert clock.waits == [2, 2]
    assert len(disk.opened) == 1
    disk.times = 3
    with refused(errno.EIO):
        top.pwrite(memoryview(b"data"), 0, fua=False)
    disk.times = 2
    assert top.extents(SIZE, 0, 0)


def test_what_a_disk_is_not_able_to_do_is_not_tried_again(clock: Clock) -> None:
    for name in ("retry", "retry-request"):
        with refused(errno.EOPNOTSUPP):
            gate(Failing(1, errno.EOPNOTSUPP), name).pread(1, 0)
    assert clock.waits == []
