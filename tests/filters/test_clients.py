"""The filters about who is served and for how long: limit, exitlast, exitwhen, time-limit, openonce
and tls-fallback; and the slots that clients hold.
"""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbdfork.filters._slots import SharedSlots
from nbdfork.plugin import ConfigError, ThreadModel
from tests.support.beside import both
from tests.support.disks import MIB, SIZE, Disk, exports, gate
from tests.support.harness import NBDFORK, SECONDS, Server, eventually, need
from tests.support.libnbd import connect, connected, libnbd
from tests.support.noise import noise
from tests.support.tls import Certificates, uri

# -- slots ------------------------------------------------------------------------------------


def test_slots_of_this_process() -> None:
    slots = SharedSlots(3)
    assert [slots.take() for _ in range(4)] == [0, 1, 2, None]
    slots.give(1)
    assert slots.held() == 2
    assert slots.take() == 1


def test_a_slot_outlives_its_holder() -> None:
    slots = SharedSlots(4)
    assert slots.take() == 0
    ready, told = os.pipe()
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            os.write(told, bytes([slots.take() or 255]))
            signal.pause()
            os._exit(0)
        children.append(child)
    taken = os.read(ready, 1) + os.read(ready, 1)
    assert sorted(taken) == [1, 2]
    assert slots.held() == 3
    assert slots.take() == 3
    assert slots.take() is None
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert slots.held() == 2
    assert slots.take() == 1


# -- limit ------------------------------------------------------------------------------------


def is_refused(address: str) -> bool:
    try:
        with connected(address):
            return False
    except libnbd().Error:
        return True


def test_a_client_too_many_is_refused_as_by_nbdkit(tmp_path: Path) -> None:
    def use(address: str) -> Any:
        with connected(address), connected(address):
            third = is_refused(address)
        return third, eventually(lambda: not is_refused(address))

    theirs, ours = both(tmp_path, use, "--filter=limit", "memory", "1M", "limit=2")
    assert ours == theirs == (True, True)


def test_a_killed_worker_gives_its_slot_back() -> None:
    with Server("-n", "--filter=limit", "memory", "1M") as server:
        client = connect(server.uri)
        [worker] = eventually(server.serving)
        assert is_refused(server.uri)
        worker.kill()
        eventually(lambda: not is_refused(server.uri))
        assert "limit=1: so many clients are served already" in server.log
        del client


# -- exitlast, exitwhen -----------------------------------------------------------------------


def test_the_server_ends_with_its_last_client() -> None:
    with Server("-n", "--filter=exitlast", "memory", "1M") as server:
        with connected(server.uri) as one:
            with connected(server.uri):
                pass
            one.pread(512, 0)
            assert server.process.poll() is None
        assert server.process.wait(SECONDS) == 0


def test_the_server_ends_if_its_last_client_is_killed() -> None:
    with Server("-n", "--filter=exitlast", "memory", "1M") as server:
        client = connect(server.uri)
        [worker] = eventually(server.serving)
        eventually(lambda: len(server.workers()) == 5)  # no spare is missing
        worker.kill()
        assert server.process.wait(SECONDS) == 0
        del client


def file_created(place: Path) -> tuple[list[str], Callable[[], object]]:
    return [f"exit-when-file-created={place / 'x'}"], (place / "x").touch


def file_deleted(place: Path) -> tuple[list[str], Callable[[], object]]:
    (place / "x").touch()
    return [f"exit-when-file-deleted={place / 'x'}"], (place / "x").unlink


def script_says_so(place: Path) -> tuple[list[str], Callable[[], object]]:
    script = f"! test -e {place / 'x'} || exit 88"
    return [f"exit-when-script={script}"], (place / "x").touch


def process_exits(place: Path) -> tuple[list[str], Callable[[], object]]:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)

    def end() -> None:
        process.communicate()

    return [f"exit-when-process-exits={process.pid}"], end


Event = Callable[[Path], tuple[list[str], Callable[[], object]]]

EVENTS: list[Event] = [file_created, file_deleted, script_says_so, process_exits]


@pytest.mark.parametrize("event", EVENTS)
def test_the_server_ends_after_an_event_when_its_clients_have_left(
    event: Event, tmp_path: Path
) -> None:
    arguments, happen = event(tmp_path)
    with Server("-n", "--filter=exitwhen", "memory", "1M", *arguments) as server:
        with connected(server.uri) as client:
            client.pread(512, 0)
            happen()
            eventually(lambda: is_refused(server.uri))
            client.pread(512, 0)
        assert server.process.wait(SECONDS) == 0


def test_a_server_without_clients_looks_now_and_then(tmp_path: Path) -> None:
    arguments, happen = file_created(tmp_path)
    with Server(
        "-n", "--filter=exitwhen", "memory", "1M", *arguments, "exit-when-poll=0.05"
    ) as server:
        happen()
        assert server.process.wait(SECONDS) == 0


def test_a_pipe_that_is_closed_ends_the_server() -> None:
    end, other = os.pipe()
    os.set_inheritable(end, True)
    command = ["--filter=exitwhen", "memory", "1M", f"exit-when-pipe-closed={end}"]
    process = subprocess.Popen(
        [*NBDFORK, "-f", "-n", "-p", "0", "-i", "127.0.0.1", *command, "exit-when-poll=0.05"],
        pass_fds=[end],
        stderr=subprocess.DEVNULL,
    )
    os.close(end)
    assert process.poll() is None
    os.close(other)
    assert process.wait(SECONDS) == 0


def test_what_exitwhen_cannot_watch_is_told() -> None:
    with pytest.raises(ConfigError, match="exit-when-process-exits=2147483647: No such process"):
        gate(Disk(b""), "exitwhen", "exit-when-process-exits=2147483647")
    with pytest.raises(ConfigError, match="exit-when-pipe-closed=1234567: Bad file descriptor"):
        gate(Disk(b""), "exitwhen", "exit-when-pipe-closed=1234567")


# -- time-limit, openonce ---------------------------------------------------------------------


def test_a_client_whose_time_is_over_is_ended() -> None:
    with Server("-n", "--filter=time-limit", "memory", "1M", "time-limit=300ms") as server:
        client = connect(server.uri)
        client.pread(512, 0)

        def fails() -> bool:
            try:
                client.pread(512, 0)
            except libnbd().Error:
                return True
            return False

        eventually(fails)
        eventually(lambda: fails() and client.aio_is_closed() | client.aio_is_dead())


def test_an_export_is_opened_once_for_all_clients() -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Slow(Disk):
        def open(self, export_name: str, read_only: bool) -> "Slow":
            opened.append(export_name)
            return self

        def close(self) -> None:
            closed.append("")

    found = exports(Slow(noise(SIZE)), "openonce")
    one, two, other = (found.open(name) for name in ("a", "a", "b"))
    assert opened == ["a", "b"]
    one.pwrite(memoryview(b"data"), 0, fua=False)
    one.close()
    assert two.pread(4, 0) == b"data"
    two.close()
    other.close()
    assert closed == []
    found._top.cleanup()
    assert len(closed) == 2


def test_clients_of_openonce_are_served_by_one_process() -> None:
    with (
        Server("-n", "--filter=openonce", "memory", "1M") as server,
        connected(server.uri) as one,
        connected(server.uri) as two,
    ):
        one.pwrite(b"x" * 512, 0)
        assert two.pread(512, 0) == b"x" * 512
        assert len(server.workers()) == 1


# -- tls-fallback -----------------------------------------------------------------------------


def test_clients_without_tls_see_a_message(tmp_path: Path) -> None:
    need("certtool", "nbdinfo")
    certificates = Certificates(tmp_path)
    options = ("--tls=on", f"--tls-certificates={certificates.server}")
    with Server(
        "-n", *options, "--filter=tls-fallback", "memory", "1M", "tlsreadme=Hello"
    ) as server:
        with connected(server.uri) as client:
            assert client.get_size() == 512
            assert bytes(client.pread(512, 0)).rstrip(b"\0") == b"Hello"
            assert client.is_read_only()
        address = uri(server, f"tls-certificates={certificates.client}", "")
        with connected(address) as client:
            assert client.get_size() == MIB


def test_a_plugin_that_serves_one_client_at_a_time_has_no_fallback() -> None:
    class Alone(Disk):
        def thread_model(self) -> ThreadModel:
            return ThreadModel.SERIALIZE_CONNECTIONS

    with pytest.raises(ConfigError, match="could keep out all others"):
        gate(Alone(b""), "tls-fallback")
