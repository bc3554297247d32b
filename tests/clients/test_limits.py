"""What a client cannot pin: memory by what it announces, and a place by being silent."""

import os
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.support.harness import Server, eventually, receive, run
from tests.support.libnbd import connected, libnbd
from tests.support.pki import Authority

MIB = 1 << 20
WRITE = 1
GREETING = 152  # bytes, of the oldstyle protocol


def oldstyle(server: Server) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(15)
    client.connect(str(server.socket))
    assert receive(client, GREETING)[:8] == b"NBDMAGIC"
    return client


def request(command: int, offset: int, length: int) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, 7, offset, length)


def memory_of(workers: list[psutil.Process]) -> int:
    """Return the bytes that *workers* have for themselves, shared parts counted in part."""
    return sum(worker.memory_full_info().pss for worker in workers)


@pytest.mark.parametrize("threads", ["1", "16"])
def test_what_is_announced_costs_nothing_until_it_comes(threads: str) -> None:
    with Server("-o", "-t", threads, "memory", "1G") as server, ExitStack() as stack:
        clients = [stack.enter_context(oldstyle(server)) for _ in range(20)]
        for client in clients:  # a request that is answered first: all code has run once
            client.sendall(request(0, 0, 512))
            receive(client, 16 + 512)
        workers = eventually(lambda: len(server.serving()) == 20 and server.serving())
        before = memory_of(workers)
        for client in clients:
            client.sendall(request(WRITE, 0, 64 * MIB))
        eventually(lambda: all(worker.status() == "sleeping" for worker in workers))
        assert memory_of(workers) - before < 20 * MIB / 4


def test_replies_that_nobody_takes_are_not_made() -> None:
    """With threads, the requests of one client hold 64 MiB at the most."""
    with Server("-o", "-t", "16", "pattern", "4G") as server, oldstyle(server) as client:
        client.sendall(b"".join(request(0, n * 64 * MIB, 64 * MIB) for n in range(16)))
        (worker,) = eventually(server.serving)
        eventually(lambda: worker.memory_info().rss > 64 * MIB)
        eventually(lambda: worker.status() == "sleeping")
        assert worker.memory_full_info().uss < 3 * 64 * MIB
        total = 0
        while total < 16 * (16 + 64 * MIB):  # each of them comes all the same
            total += len(client.recv(MIB))


def test_a_payload_for_which_there_is_no_memory_fails_its_request_only(tmp_path: Path) -> None:
    plugin = tmp_path / "tight.py"
    plugin.write_text(
        "import resource\n"
        "from nbdfork.plugin import Plugin\n"
        "class Tight(Plugin):\n"
        "    def get_size(self):\n"
        "        return 1 << 30\n"
        "    def pread(self, count, offset):\n"
        "        used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20),) * 2)\n"
        "        return bytes(count)\n"
        "    def pwrite(self, data, offset, flags):\n"
        "        pass\n"
    )
    with Server("-n", plugin) as server, connected(server.uri) as client:
        client.pread(512, 0)  # from now on there is little memory
        with pytest.raises(libnbd().Error, match="ENOMEM"):
            client.pwrite(bytes(32 * MIB), 0)
        client.pwrite(bytes(512), 0)
        assert client.pread(512, 0) == bytes(512)
        assert "a payload of 33554432 bytes" in server.log


def test_the_first_request_is_a_part_of_the_oldstyle_handshake() -> None:
    with Server("-o", "--handshake-limit", "1", "memory", "1M") as server:
        with oldstyle(server) as silent, oldstyle(server) as client:
            client.sendall(request(0, 0, 512))
            receive(client, 16 + 512)
            assert silent.recv(1) == b""  # disconnected
            client.sendall(request(0, 0, 512))
            assert len(receive(client, 16 + 512)) == 16 + 512


def test_a_client_that_has_ended_and_does_not_close_makes_room_for_others() -> None:
    with Server("-o", "-v", "--max-clients=1", "memory", "1M") as server:
        with oldstyle(server) as lingering:
            lingering.sendall(request(0, 0, 512))
            receive(lingering, 16 + 512)
            lingering.sendall(request(2, 0, 0))
            with oldstyle(server) as client:
                client.sendall(request(0, 0, 512))
                receive(client, 16 + 512)
        assert "is sent away: it has ended, and does not close, and others wait" in server.log


@pytest.mark.parametrize("style", ["-n", "-o"])
def test_a_disk_that_takes_its_time_to_open_does_not_cost_the_client_its_own(style: str) -> None:
    words = [style, "--handshake-limit=1", "--filter=delay", "memory", "1M", "delay-open=1500ms"]
    with Server(*words) as server, connected(server.uri) as client:
        assert client.pread(512, 0) == bytes(512)


def test_a_client_may_be_idle_unless_there_is_a_limit() -> None:
    with Server("-o", "--idle-limit", "1", "memory", "64M") as server:
        with oldstyle(server) as idle, oldstyle(server) as greedy:
            idle.sendall(request(0, 0, 512))
            receive(idle, 16 + 512)
            greedy.sendall(request(0, 0, 64 * MIB))  # and does not take it
            eventually(lambda: len(server.serving()) == 2)
            assert idle.recv(1) == b""
            eventually(lambda: not server.serving())


@pytest.mark.parametrize(
    ("rules", "is_admitted"),
    [
        (["--allow", "dn:*,O=Disks,*"], True),
        (["--allow", "dn:CN=other*"], False),
        (["--deny", "dn:*O=Disks*"], False),
        (["--allow", f"uid:{os.getuid()}", "--deny", "dn:CN=other"], True),
        (["--allow", "dn:*,O=Disks,* for *"], True),
        (["--allow", "dn:CN=other* for *"], False),
    ],
)
def test_rules_for_certificates(tmp_path: Path, rules: list[str], is_admitted: bool) -> None:
    authority = Authority(tmp_path / "authority")
    folder = authority.client("client")
    tls = ("--tls=require", "--tls-verify-peer", f"--tls-certificates={authority.directory}")
    with Server(*tls, *rules, "memory", "1M") as server:
        uri = f"nbds+unix:///?socket={server.socket}&tls-certificates={folder}"
        done = run("nbdinfo", "--size", uri)
        assert (done.stdout.strip() == str(MIB)) == is_admitted, done.stderr
        assert (" is not allowed" in server.log) != is_admitted
        done = run("nbdinfo", "--list", uri)
        assert (f"({MIB >> 20}M)" in done.stdout) == is_admitted


def test_a_worker_without_a_supervisor_does_not_wait_for_ever_for_its_client() -> None:
    server = Server("-o", "--clients-per-worker=0", "memory", "64M")
    with oldstyle(server) as client:
        client.sendall(request(0, 0, 64 * MIB))  # and takes no reply
        (worker,) = eventually(server.serving)
        eventually(lambda: worker.status() == "sleeping")
        server.process.kill()
        server.process.wait()
        _, alive = psutil.wait_procs([worker], timeout=20)
        assert not alive
