"""Clients that leave while a plugin is at work for them: nobody else waits for that."""

import ctypes
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.harness import NBDFORK, Server, eventually, is_readable, run
from tests.support.libnbd import connect, libnbd
from tests.support.paths import SAMPLES
from tests.support.raw import GREETING, Client, clients, header

SYS_PIDFD_GETFD = 438  # asm-generic/unistd.h; not in glibc 2.36
syscall = ctypes.CDLL(None).syscall

WAITING = SAMPLES / "waiting.py"
TCP = ("-i", "127.0.0.1", "-p", "0")
ONE = ("--max-clients", "1")


class Stage:
    """Where the plugin waits."""

    def __init__(self, place: Path) -> None:
        self.begun = place / "begun"
        self.fifo = place / "fifo"
        os.mkfifo(self.fifo)

    def words(self, where: str, *others: str) -> tuple[str, ...]:
        """Return the plugin, and its parameters."""
        stage = (f"where={where}", f"begun={self.begun}", f"until={self.fifo}")
        return (str(WAITING), *stage, *others)

    def reached(self) -> None:
        """Wait until the plugin waits."""
        eventually(self.begun.exists)

    def go_on(self) -> None:
        """Let the plugin go on."""
        self.fifo.write_text("go on")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def reset(client: socket.socket) -> None:
    """Close a TCP connection so that its other end knows that nobody is there."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def serves(server: Server) -> None:
    """Another client is served, and soon."""
    began = time.monotonic()
    client = Client(server).greet()
    assert client.read() == b"x" * 512
    client.close()
    assert time.monotonic() - began < 8  # and not the time that the plugin would take


BEFORE_THE_GREETING = ("preconnect", "default_export", "open", "get_size")


@pytest.mark.parametrize("where", [*BEFORE_THE_GREETING, "pread"])
@pytest.mark.parametrize("how", ["unix", "a reset", "the end of a stream"])
def test_the_next_client_is_served_at_once(where: str, how: str, stage: Stage) -> None:
    with Server(*ONE, *stage.words(where), listen=None if how == "unix" else TCP) as server:
        client = Client(server)
        if where not in BEFORE_THE_GREETING:
            client.greet().request(0, 0, 512)
        stage.reached()
        (worker,) = eventually(server.serving)
        if how == "a reset":
            reset(client.socket)
        else:
            client.close()
        serves(server)
        assert not worker.is_running()
        assert "Traceback" not in server.log


@pytest.mark.parametrize("where", [*BEFORE_THE_GREETING, "pread", "close"])
def test_each_call_that_hangs_is_told_of_and_ended(where: str, stage: Stage) -> None:
    limits = ("--hang-warning", "0.3", "--hang-limit", "1.2")
    with Server(*limits, *stage.words(where)) as server:
        client = Client(server)
        if where not in BEFORE_THE_GREETING:
            client.greet().request(0, 0, 512)
        if where == "close":
            client.reply(512)
            client.close()
        stage.reached()
        eventually(lambda: "killed" in server.log)
        assert f"in {where}" in server.log
        assert "stack: " in server.log
        client.close()


def test_a_client_that_is_silent_is_not_taken_for_a_plugin_that_hangs(stage: Stage) -> None:
    limits = ("--hang-warning", "0.2", "--hang-limit", "0.5")
    with Server(*limits, *stage.words("nowhere", "in-one=true")) as server:
        first, second = Client(server).greet(), Client(server).greet()
        first.request(2, 0, 0)  # DISC, by itself
        assert not is_readable(second.socket.fileno(), 1.2)
        assert second.read() == b"x" * 512
        assert "busy" not in server.log


def test_in_the_newstyle_handshake(stage: Stage) -> None:
    with Server("-n", *ONE, *stage.words("list_exports")) as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.socket))
            client.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, 3, 0))
            stage.reached()
        assert connect(server.uri).pread(512, 0) == b"x" * 512


def test_with_several_requests_at_once(stage: Stage) -> None:
    with Server(*ONE, "-t", "4", *stage.words("pread")) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        stage.reached()
        assert client.read() == b"x" * 512  # by another thread
        client.close()
        serves(server)


def test_under_tls(stage: Stage, keys: Path) -> None:
    words = ("--tls=require", f"--tls-psk={keys}", *ONE, *stage.words("pread"))
    with Server(*words) as server:
        uri = f"nbds+unix://alice@/?socket={server.socket}&tls-psk-file={keys}"
        first = libnbd().NBD()
        first.set_uri_allow_local_file(True)
        first.connect_uri(uri)
        first.aio_pread(libnbd().Buffer(512), 0)
        stage.reached()
        del first
        second = libnbd().NBD()
        second.set_uri_allow_local_file(True)
        second.connect_uri(uri)
        assert second.pread(512, 0) == b"x" * 512


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    run("psktool", "-u", "alice", "-p", str(tmp_path / "keys.psk"))
    return tmp_path / "keys.psk"


@pytest.mark.parametrize("listen", [None, TCP], ids=["unix", "tcp"])
def test_a_client_that_only_sends_no_more_has_its_answer(
    listen: tuple[str, ...] | None, stage: Stage
) -> None:
    """On a Unix domain socket even if another client needs its place."""
    with Server(*ONE, *stage.words("pread"), listen=listen) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        client.socket.shutdown(socket.SHUT_WR)
        stage.reached()
        if listen is None:
            other = Client(server)
            assert not other.has_been_greeted(1.5)
        else:
            assert not is_readable(client.socket.fileno(), 1.5)
        stage.go_on()
        assert client.reply(512) == (0, b"x" * 512)
        client.close()


def server_ends(worker: psutil.Process, client: socket.socket) -> Iterator[socket.socket]:
    """Yield copies of what *worker* has of its connection with *client*."""
    process = os.pidfd_open(worker.pid)
    for fd in range(64):
        copy = syscall(SYS_PIDFD_GETFD, process, fd, 0)
        if copy < 0:
            continue
        try:
            end = socket.socket(fileno=copy)
        except OSError:  # it is none
            os.close(copy)
            continue
        with end, suppress(OSError):
            if end.family == socket.AF_INET and end.getpeername() == client.getsockname():
                yield end
    os.close(process)


@pytest.mark.skipif(os.geteuid() != 0, reason="the worker's socket is looked at")
def test_over_tcp_one_who_has_closed_is_found_out_though_nobody_waits(stage: Stage) -> None:
    """Its system answers for it for a while; then it says that nobody is there."""
    with Server("-v", *stage.words("pread"), listen=TCP) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        stage.reached()
        (worker,) = eventually(server.serving)
        for end in server_ends(worker, client.socket):  # two minutes are too long for a test
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
        client.close()
        eventually(lambda: not worker.is_running())
        assert f"has left: worker {worker.pid} is killed" in server.log


def test_what_is_done_for_the_disk_goes_on(stage: Stage) -> None:
    """What a plugin does in close may be what keeps answered writes."""
    with Server(*stage.words("close")) as server:
        client = Client(server).greet()
        client.write(b"y" * 512)
        client.close()
        stage.reached()
        (worker,) = server.serving()
        other = Client(server).greet()
        assert not is_readable(other.socket.fileno(), 1.5)
        assert worker.is_running()
        stage.go_on()
        eventually(lambda: not worker.is_running())
        other.close()


def test_the_place_in_a_worker_for_all_clients(stage: Stage) -> None:
    words = stage.words("pread", "in-one=true")
    with Server("--max-clients", "2", *words) as server, clients(server, 3) as (one, two, three):
        one.greet().request(0, 0, 512)
        two.greet()
        stage.reached()
        one.close()
        three.greet()
        assert "has left, but the plugin is still busy with it" in server.log
        stage.go_on()
        assert two.read() + three.read() == b"x" * 1024
        with clients(server, 1) as (four,):  # the place is not given back a second time
            assert not four.has_been_greeted(0.3)
            two.close()
            assert four.greet().read() == b"x" * 512


def test_a_worker_for_all_clients_one_by_one_is_not_killed(stage: Stage) -> None:
    with Server(*stage.words("pread", "in-turn=true")) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        stage.reached()
        client.close()
        eventually(lambda: "has left, but the plugin is still busy with it" in server.log)
        stage.go_on()
        serves(server)


@contextmanager
def single(stage: Stage, *options: str) -> Iterator[tuple[socket.socket, psutil.Popen]]:
    """Let a server serve the one client that is returned."""
    ours, theirs = socket.socketpair()
    words = [*NBDFORK, "-s", *options, *stage.words("pread")]
    process = psutil.Popen(words, stdin=theirs.fileno(), stdout=theirs.fileno())
    theirs.close()
    with ours:
        yield ours, process
    process.wait(30)


def test_on_standard_input(stage: Stage) -> None:
    with single(stage) as (client, process):
        received = b""
        while len(received) < GREETING:
            received += client.recv(GREETING)
        client.sendall(header(0, 0, 512))
        stage.reached()
        assert process.is_running()
        client.close()
        process.wait(30)


@pytest.mark.parametrize("listen", [None, TCP], ids=["unix", "tcp"])
def test_the_delay_filter(listen: tuple[str, ...] | None) -> None:
    with Server(*ONE, "--filter=delay", "pattern", "1M", "rdelay=60", listen=listen) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        client.close()
        other = Client(server)
        other.greet().close()


ENDS: list[Callable[[Client], object]] = [lambda client: None, lambda client: client.close()]


@pytest.mark.parametrize("leave", ENDS, ids=["it stays", "it leaves"])
@pytest.mark.parametrize("listen", [None, TCP], ids=["unix", "tcp"])
def test_the_end_of_the_server_takes_seconds(
    listen: tuple[str, ...] | None, leave: Callable[[Client], object]
) -> None:
    words = ("--shutdown-limit", "40", "--filter=delay", "null", "1M", "rdelay=60")
    with Server(*words, listen=listen) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        leave(client)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20


def test_the_end_while_a_plugin_is_busy_with_one_who_has_left(stage: Stage) -> None:
    with Server("--shutdown-limit", "60", *stage.words("pread"), listen=TCP) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        stage.reached()
        reset(client.socket)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("where", ["open", "pread"])
def test_in_a_sandbox(where: str, stage: Stage) -> None:
    with Server("--sandbox=auto", *ONE, *stage.words(where)) as server:
        client = Client(server)
        if where == "pread":
            client.greet().request(0, 0, 512)
        stage.reached()
        client.close()
        serves(server)


@pytest.mark.parametrize("sandbox", ["off", "auto"])
def test_processes_of_a_killed_worker_are_killed_with_it(sandbox: str, stage: Stage) -> None:
    with Server(f"--sandbox={sandbox}", *stage.words("pread", "child=true")) as server:
        client = Client(server).greet()
        client.request(0, 0, 512)
        stage.reached()
        (worker,) = server.serving()
        family = eventually(lambda: len(found := worker.children(recursive=True)) == 2 and found)
        worker.kill()
        psutil.wait_procs(family, timeout=30)
        assert not any(one.is_running() for one in family)
        client.close()


def test_workers_whose_supervisor_was_killed_end_whatever_they_wait_for(
    tmp_path: Path, keys: Path
) -> None:
    """All at once, for each has ten seconds."""
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    stages = [Stage(place) for place in places]
    memory = ("memory", "64M")
    servers = [
        Server(*memory),
        Server("--tls=require", f"--tls-psk={keys}", *memory),
        Server("-t", "4", *stages[0].words("pread")),
        Server("-t", "4", *stages[1].words("pread", "in-one=true")),
        Server(*stages[2].words("pread", "child=true")),
        Server("--filter=delay", *memory, "rdelay=60"),
    ]
    plain, secure, *waiting = servers
    lazy = Client(plain).greet()
    for _ in range(4):
        lazy.request(0, 0, 32 << 20)  # and it reads none of it
    under_tls = libnbd().NBD()
    under_tls.set_uri_allow_local_file(True)
    under_tls.connect_uri(f"nbds+unix://alice@/?socket={secure.socket}&tls-psk-file={keys}")
    for _ in range(4):
        under_tls.aio_pread(libnbd().Buffer(32 << 20), 0)
    patient = [Client(server).greet() for server in waiting]
    for client in patient:
        client.request(0, 0, 512)
    for stage in stages:
        stage.reached()
    eventually(lambda: all(server.serving() for server in servers))
    workers = [worker for server in servers for worker in server.serving()]
    processes = [one for worker in workers for one in (worker, *worker.children(recursive=True))]
    for server in servers:
        server.process.kill()
        server.process.wait()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    for server in servers:
        shutil.rmtree(server.directory)
