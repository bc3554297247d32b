"""The pool: one client a worker, spares, limits, deaths, and the drain at the end."""

import errno
import os
import signal
import socket
import struct
import threading
from pathlib import Path

import psutil
import pytest

from tests.support.harness import (
    SECONDS,
    Server,
    eventually,
    has_been_sent,
    is_alive,
    need,
    output,
    receive,
    suspend,
    title,
)
from tests.support.libnbd import connected
from tests.support.paths import SAMPLES
from tests.support.raw import Client, clients, header


def idle(server: Server, count: int = 4) -> list[psutil.Process]:
    """Return the spares once all *count* of them wait for clients."""
    workers = server.workers()
    ready = len(workers) == count and all(title(w) == "nbdfork: worker idle" for w in workers)
    return workers if ready else []


def test_each_client_has_a_process_of_its_own() -> None:
    with Server("memory", "1M") as server, clients(server, 10) as many:
        for client in many:
            client.greet()
        assert eventually(lambda: len(server.serving()) == 10)
        many[0].write(b"shared")
        assert all(client.read(0, 6) == b"shared" for client in many)


def test_ps_shows_who_serves_whom() -> None:
    with Server("-n", "memory", "1M", listen=("-p", "0", "-i", "127.0.0.1")) as server:
        client = Client(server)
        client.receive(18)
        name = b"my disk"
        option = struct.pack(">IQII", 3, 0x49484156454F5054, 1, len(name)) + name
        client.socket.sendall(option)
        client.receive(10)
        peer = f"127.0.0.1:{client.socket.getsockname()[1]}"
        shown = f"nbdfork: worker serving {peer} export 'my disk'"
        assert eventually(lambda: [title(w) for w in server.serving()] == [shown])
        client.close()
        assert eventually(lambda: not server.serving())


def test_two_hundred_clients_at_once() -> None:
    with Server("memory", "1M", listen=("-p", "0")) as server, clients(server, 200) as many:
        for number, client in enumerate(many):
            client.greet().write(bytes([number]), number)
        assert many[0].read(0, 200) == bytes(range(200))
        assert len(server.workers()) <= 200 + 2 * 4
        for client in many:
            client.close()
        assert eventually(lambda: len(server.workers()) <= 8)
        with clients(server, 200) as more:  # and again: no slot was lost
            for client in more:
                client.greet()


def test_at_the_limit_the_next_client_waits() -> None:
    with Server("--max-clients", "2", "memory", "1M") as server, clients(server, 3) as many:
        many[0].greet()
        many[1].greet()
        assert eventually(lambda: len(server.serving()) == 2)
        assert not many[2].has_been_greeted(0.3)
        assert len(server.workers()) == 2
        many[0].close()
        many[2].greet()
        assert eventually(lambda: "all 2 clients are taken" in server.log)


def test_slots_do_not_leak() -> None:
    with Server("--max-clients", "2", "--spare-workers", "1", "memory", "1M") as server:
        for _ in range(50):
            client = Client(server)
            client.greet()
            client.close()
        with clients(server, 2) as both:
            for client in both:
                client.greet()


def test_a_worker_can_serve_several_clients() -> None:
    options = ("--clients-per-worker", "3", "--max-clients", "1")
    with Server(*options, "memory", "1M") as server:
        pids = []
        for _ in range(6):
            client = Client(server)
            client.greet()
            pids.append(eventually(lambda: [w.pid for w in server.serving()])[0])
            client.close()
            assert eventually(lambda: not server.serving())
        assert pids[0] == pids[1] == pids[2]
        assert pids[3] == pids[4] == pids[5]
        assert pids[0] != pids[3]


def test_surplus_spares_are_let_go() -> None:
    options = ("--clients-per-worker", "0", "--spare-workers", "2")
    with Server(*options, "memory", "1M") as server:
        with clients(server, 20) as many:
            for client in many:
                client.greet()
            assert len(server.workers()) >= 20
        assert eventually(lambda: len(server.workers()) <= 4)
        with clients(server, 3) as many:
            for client in many:
                client.greet()


def test_clients_that_leave_at_once_leave_as_many_spares_as_there_may_be() -> None:
    """Which workers are told to end is remembered: none is forked, or told again, in vain."""
    with Server("--clients-per-worker=0", "--spare-workers=2", "memory", "1M") as server:
        for _ in range(3):
            with clients(server, 24) as many:
                for client in many:
                    client.greet()
                eventually(lambda: len(server.serving()) == 24 and len(server.workers()) >= 26)
                before = {worker.pid for worker in server.workers()}
            eventually(lambda: idle(server))
            assert {worker.pid for worker in server.workers()} <= before


def test_killing_a_worker_costs_its_client_only() -> None:
    with Server("memory", "1M") as server, clients(server, 5) as many:
        for client in many:
            client.greet()
        workers = eventually(lambda: len(server.serving()) == 5 and server.serving())
        workers[0].kill()
        lost = 0
        for client in many:
            try:
                client.read()
            except (EOFError, OSError):
                lost += 1
        assert lost == 1
        assert eventually(lambda: f"worker {workers[0].pid}, serving unix pid" in server.log)
        assert "was killed by signal 9" in server.log


def test_a_spare_that_is_told_to_end_does_not_wait_for_a_client() -> None:
    with Server("--spare-workers", "1", "memory", "1M") as server:
        (spare,) = eventually(lambda: idle(server, 1))
        spare.terminate()
        assert eventually(lambda: not is_alive(spare))
        client = Client(server).greet()
        assert client.read(0, 8) == bytes(8)
        client.close()


def test_killed_spares_are_replaced_and_the_pace_is_throttled() -> None:
    with Server("memory", "1M") as server:
        first = Client(server).greet()
        first.close()  # once it is replaced, the server has finished starting
        assert eventually(lambda: len(server.workers()) == 4 and not server.serving())
        for worker in eventually(lambda: idle(server)):
            worker.kill()
        assert eventually(lambda: "a worker died unused; next fork in 0.4 s" in server.log)
        client = Client(server).greet()
        assert eventually(lambda: len(server.workers()) == 5)
        client.close()


@pytest.mark.parametrize("listen", [None, ("-p", "0")], ids=["unix", "tcp"])
def test_what_was_received_is_answered_before_the_end(
    tmp_path: Path, listen: tuple[str, ...] | None
) -> None:
    """Clients write without pause while the server is told to end; what was acknowledged is
    there, and the last acknowledgements are not lost on their way.
    """
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with Server("file", disk, listen=listen) as server, clients(server, 4) as many:
        last = [-1 for _ in many]
        threads = [
            threading.Thread(target=keep_writing, args=(client.greet(), last, index))
            for index, client in enumerate(many)
        ]
        for thread in threads:
            thread.start()
        assert eventually(lambda: min(last) > 100)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert server.process.wait(SECONDS) == 0
        assert "killing" not in server.log
    content = disk.read_bytes()
    for index, number in enumerate(last):
        stored = int(content[8 * index : 8 * index + 8])
        assert number <= stored <= number + 1  # the last one may have been done but not answered


def keep_writing(client: Client, last: list[int], index: int) -> None:
    """Overwrite the counter *index* on the disk, noting each value that was acknowledged."""
    try:
        for number in range(1_000_000):
            error = client.write(b"%08d" % number, 8 * index)
            if error:  # what came too late
                assert error == errno.ESHUTDOWN
                return
            last[index] = number
    except (EOFError, OSError):
        pass


def test_requests_sent_before_the_signal_are_answered() -> None:
    """A batch lies in the stopped worker's socket when the signal comes."""
    with Server("memory", "1M") as server, clients(server, 1) as (client,):
        client.greet()
        assert eventually(lambda: len(server.workers()) == 5)  # it has finished starting
        (worker,) = eventually(server.serving)
        suspend(worker)
        writes = [header(1, 8 * n, 8) + b"%08d" % n for n in range(100)]
        client.socket.sendall(b"".join(writes) + header(0, 0, 800))
        server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: has_been_sent(worker, signal.SIGTERM))
        worker.resume()
        for _ in range(100):
            assert client.reply() == (0, b"")
        assert client.reply(800) == (0, b"".join(b"%08d" % n for n in range(100)))
        with pytest.raises(EOFError):
            client.receive(1)


def receives_no_more(client: Client) -> bool:
    """Return whether the server has shut down the receiving half of its socket for *client*."""
    local, remote = client.socket.getsockname(), client.socket.getpeername()
    ends = [f"{host}:{port}" for host, port in (remote, local)]
    (line,) = (line for line in output("ss", "-tneH").splitlines() if line.split()[3:5] == ends)
    return "-->" in line


def test_requests_sent_while_the_server_ends_are_refused(tmp_path: Path) -> None:
    """The client had its say; that the server goes down is told to the rest of its requests."""
    need("ss")
    begun, until = tmp_path / "begun", tmp_path / "until"
    os.mkfifo(until)
    slow = (SAMPLES / "waiting.py", "where=pwrite", f"begun={begun}", f"until={until}", "-t1")
    listen = ("-i", "127.0.0.1", "-p", "0")
    with Server(*slow, listen=listen) as server, clients(server, 1) as (client,):
        client.greet()
        client.socket.sendall(header(1, 0, 8) + b"in time!")
        assert eventually(begun.exists)
        server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: len(server.workers()) == 1)
        eventually(lambda: receives_no_more(client))  # the signal has reached it, too
        client.socket.sendall(header(1, 8, 8) + b"too late" + header(0, 0, 8))
        until.write_text("go on")
        assert client.reply() == (0, b"")
        assert client.reply() == (errno.ESHUTDOWN, b"")
        assert client.reply() == (errno.ESHUTDOWN, b"")
        with pytest.raises(EOFError):
            client.receive(1)


def test_options_are_refused_while_the_server_ends() -> None:
    """A client that is still choosing an export hears why it gets none; it can say goodbye."""
    with Server("-n", "memory", "1M") as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.socket))
        receive(client, 18)
        client.sendall(struct.pack(">I", 3))
        (worker,) = eventually(server.serving)
        suspend(worker)
        for number in (3, 2):  # LIST, ABORT
            client.sendall(struct.pack(">QII", 0x49484156454F5054, number, 0))
        server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: has_been_sent(worker, signal.SIGTERM))
        worker.resume()
        _, option, reply, length = struct.unpack(">QIII", receive(client, 20))
        assert (option, reply) == (3, 0x80000007)
        assert receive(client, length).decode() == "the server is shutting down"
        assert struct.unpack(">QIII", receive(client, 20))[1:] == (2, 1, 0)
        assert receive(client, 1) == b""


def test_a_client_that_takes_nothing_is_cut_off_at_the_limit() -> None:
    options = ("--shutdown-limit", "0.5")
    with Server(*options, "memory", "64M") as server, clients(server, 1) as (client,):
        client.greet()
        for _ in range(4):
            client.request(0, 0, 32 << 20)
        assert eventually(server.serving)
        assert server.stop() == 0
        assert "killing worker" in server.log


def test_a_second_signal_does_not_wait() -> None:
    options = ("--shutdown-limit", "60")
    with Server(*options, "memory", "64M") as server, clients(server, 1) as (client,):
        client.greet()
        for _ in range(4):
            client.request(0, 0, 32 << 20)
        assert eventually(lambda: len(server.workers()) == 5)  # it has finished starting
        server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: len(server.workers()) == 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0


def test_workers_end_when_the_supervisor_is_killed() -> None:
    server = Server("memory", "1M")
    client = Client(server).greet()
    workers = eventually(lambda: len(server.workers()) == 5 and server.workers())
    server.process.kill()
    server.process.wait(SECONDS)
    _, alive = psutil.wait_procs(workers, timeout=SECONDS)
    assert not alive
    with pytest.raises(EOFError):
        client.receive(1)
    with pytest.raises(ConnectionRefusedError):
        Client(server)


def test_a_flush_that_fails_at_the_end_is_reported() -> None:
    with Server(SAMPLES / "failing.py", "flush-error=EIO", "close-error=EIO") as server:
        client = Client(server).greet()
        client.read()  # one that has asked for nothing has nothing to be flushed
        assert eventually(server.serving)
        server.stop()
        client.close()
        assert "flushing the export failed, writes may be lost" in server.log
        assert "closing the export failed" in server.log


def test_one_worker_accepts_for_several_sockets() -> None:
    with Server("--max-clients", "1", "memory", "1M", listen=("-p", "0")) as server:
        for address in ("127.0.0.1", "::1") * 3:
            with socket.create_connection((address, server.port), SECONDS) as client:
                assert client.recv(8) == b"NBDMAGIC"


def test_no_thundering_herd() -> None:
    """A connection wakes one worker, not all that wait."""
    with Server("--spare-workers", "20", "memory", "1M") as server:
        workers = eventually(lambda: idle(server, 20))
        assert eventually(lambda: all(w.status() == psutil.STATUS_SLEEPING for w in workers))
        before = {worker: worker.num_ctx_switches().voluntary for worker in workers}
        with clients(server, 1) as (client,):
            client.greet()
            woken = [w for w in workers if w.num_ctx_switches().voluntary > before[w]]
            assert len(woken) <= 3


def timer(server: Server, client: Client) -> str:
    """Return the number of the timer that runs for the server's end of a TCP connection."""
    ends = f":{server.port:04X}", f":{client.socket.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, local, remote, _, _, running, *_ = line.split()
        if (local[-5:], remote[-5:]) == ends:
            return running[:2]
    return ""


def test_keepalive() -> None:
    with Server("--keepalive", "memory", "1M", listen=("-p", "0", "-4")) as server:
        client = Client(server).greet()
        assert eventually(lambda: timer(server, client) == "02")  # that is keepalive's


def test_a_worker_that_is_short_of_descriptors_keeps_its_clients() -> None:
    """One process serves all; another's many connections are not its end."""
    with Server("-n", SAMPLES / "local.py", "one=yes") as server:
        with connected(server.uri) as client:
            (worker,) = server.workers()
            worker.rlimit(psutil.RLIMIT_NOFILE, (64, 64))
            client.pwrite(b"x" * 512, 0)
            others = []
            for _ in range(80):
                others.append(socket.socket(socket.AF_UNIX))
                others[-1].connect(str(server.socket))
            assert eventually(lambda: "cannot accept a client" in server.log)
            assert client.pread(512, 0) == b"x" * 512
            for other in others:
                other.close()
        with connected(server.uri) as late:
            assert late.pread(512, 0) == b"x" * 512
