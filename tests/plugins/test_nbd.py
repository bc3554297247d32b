"""The nbd plugin in front of real servers (qemu-nbd, nbd-server, nbdkit, ourselves), of both
styles, side by side with nbdkit's.
"""

import errno
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    BlockSize,
    ConfigError,
    Extent,
    Support,
)
from tests.support import plugins
from tests.support.far import Far
from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    eventually,
    is_alive,
    nbdfork,
    need,
    output,
    refused,
    run,
)
from tests.support.libnbd import connected, fails, libnbd
from tests.support.nginx import free_ports, make_certificates

MIB = 1 << 20
CONTENT = os.urandom(2 * MIB)


plugin = partial(plugins.plugin, "nbd")
opened = partial(plugins.opening, "nbd", read_only=False)


@pytest.fixture(autouse=True)
def _libnbd() -> None:
    libnbd()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, for sockets, and a disk.img."""
    with tempfile.TemporaryDirectory(prefix="nbdfork-far") as name:
        (Path(name) / "disk.img").write_bytes(CONTENT)
        yield Path(name)


class FarNbdServer(Far):
    """nbd-server, which serves more than one client only if it is a daemon."""

    def __init__(self, place: Path) -> None:
        [port] = free_ports(1)
        (place / "config").write_text(
            f"[generic]\nunixsock = {place}/far\nport = {port}\nlistenaddr = 127.0.0.1\n"
            f"[default]\nexportname = {place}/disk.img\nflush = true\nfua = true\n"
        )
        self._pidfile = place / "pid"
        super().__init__(place / "far", "nbd-server", "-C", place / "config", "-p", self._pidfile)

    def start(self) -> None:
        output(*self._command)
        eventually(lambda: self._pidfile.exists() and self._pidfile.read_text().strip())
        self._daemon = psutil.Process(int(self._pidfile.read_text()))
        eventually(self._accepts)

    def kill(self) -> None:
        processes = [self._daemon, *self._daemon.children()]
        for process in processes:
            process.kill()
        eventually(lambda: not any(map(is_alive, processes)))


def far_nbdkit(place: Path, *arguments: str | Path) -> Far:
    return Far(place / "far", "nbdkit", "-f", "-U", place / "far", *arguments)


def far_server(kind: str, place: Path) -> Far:
    """One of the servers there are, with disk.img."""
    path, disk = place / "far", place / "disk.img"
    match kind:
        case "qemu-nbd":
            words = ["-t", "-e", "4", "-f", "raw", "--discard=unmap", "-x", "", "-D", "a disk"]
            return Far(path, "qemu-nbd", "-k", path, *words, disk)
        case "qcow2":
            image = place / "image"
            output("qemu-img", "create", "-q", "-f", "qcow2", image, "4M")
            output(
                "qemu-io", "-f", "qcow2", image, "-c", "write -P 9 1M 1M", "-c", "write -z 3M 64k"
            )
            return Far(path, "qemu-nbd", "-k", path, "-t", "-e", "4", "-f", "qcow2", image)
        case "nbd-server":
            return FarNbdServer(place)
        case "nbdkit":
            return far_nbdkit(place, "file", disk)
        case "nbdkit-old":
            return far_nbdkit(place, "-o", "file", disk)
        case "read-only":
            return far_nbdkit(place, "-r", "file", disk)
    style = {"nbdfork": "-n", "nbdfork-old": "-o"}[kind]
    return Far(path, *NBDFORK, "-f", style, "-U", path, "file", disk)


KINDS = ["qemu-nbd", "qcow2", "nbd-server", "nbdkit", "nbdkit-old", "read-only", "nbdfork"]
KINDS += ["nbdfork-old"]


def way(kind: str, far: Far) -> list[str]:
    name = ["export=default"] if kind == "nbd-server" else []
    return [f"socket={far.path}", *name]


def facts(uri: str) -> dict[str, Any]:
    """Return what nbdinfo finds of an export, but for what depends on the style of a server."""
    [export] = json.loads(output("nbdinfo", "--json", uri))["exports"]
    kept = ("can_", "is_", "export-size", "block_", "description")
    return {
        key: value
        for key, value in export.items()
        if key.startswith(kept) and key not in ("can_df", "can_fast_zero", "export-size-str")
    }


# -- the same as the server, and as nbdkit ----------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_facts_and_bytes_of_a_server(kind: str, place: Path) -> None:
    need("nbdkit", "nbdinfo", "nbdcopy")
    with far_server(kind, place) as far:
        uri = far.uri.replace("///", "///default") if kind == "nbd-server" else far.uri
        theirs = facts(uri)
        with Server("-n", "nbd", *way(kind, far)) as server:
            ours = facts(server.uri)
            output("nbdcopy", server.uri, place / "ours")
            has_map = kind not in ("nbd-server", "nbdkit-old", "nbdfork-old")
            maps = [output("nbdinfo", "--map", one) for one in (uri, server.uri) if has_map]
        words = ["-U", "-", "nbd", *way(kind, far), "--run", f'nbdcopy "$uri" {place}/nbdkits']
        output("nbdkit", *words)
    # What a server does not say, nor needs to do itself, we say and do: zeroes can be written,
    # and there are sizes that all servers take.
    for key, default in {
        "block_size_minimum": 1,
        "block_size_preferred": 4096,
        "block_size_maximum": 32 * MIB,
    }.items():
        theirs.setdefault(key, default)
    theirs["can_zero"] = not theirs["is_read_only"]
    if not theirs["is_read_only"]:
        theirs["can_multi_conn"] = False  # each client has a link of its own
    if kind == "nbd-server":
        theirs["export-size"] = len(CONTENT)  # to nbdinfo, which does not open it, it says 0
    assert ours == theirs
    assert len(set(maps)) == has_map
    assert (place / "ours").read_bytes() == (place / "nbdkits").read_bytes()


# nbdkit as a server of old style is not among these: it refuses to flush.
@pytest.mark.parametrize("kind", ["qemu-nbd", "nbd-server", "nbdkit", "nbdfork", "nbdfork-old"])
def test_the_same_writes_as_through_nbdkit(kind: str, place: Path) -> None:
    need("nbdkit", "qemu-io")
    writes = ["write -P 1 0 4096", "write -P 2 512 70656", "write -z 8192 1M", "write -P 3 1M 1M"]
    words = [word for one in [*writes, "flush"] for word in ("-c", one)]
    with far_server(kind, place) as far:
        for command in (["nbdkit"], NBDFORK):
            (place / "disk.img").write_bytes(CONTENT)
            script = f"qemu-io -f raw $nbd {' '.join(map(repr, words))}"
            output(*command, "-U", "-", "nbd", *way(kind, far), "--run", script)
            zeroes = bytes(MIB - 8192)
            expected = b"\1" * 512 + b"\2" * 7680 + zeroes + b"\3" * MIB
            assert (place / "disk.img").read_bytes() == expected


def test_each_request_with_its_flags(place: Path) -> None:
    log = place / "log"
    words = ["--filter=log", "memory", "4M", f"logfile={log}"]
    with far_nbdkit(place, *words) as far, opened(f"socket={far.path}") as export:
        assert export.can_fua() is export.can_cache() is Support.NATIVE
        assert export.can_fast_zero()
        export.pwrite(memoryview(bytes(512)), 0, FUA)
        export.pwrite(memoryview(bytes(512)), 512, 0)
        export.flush()
        export.trim(4096, 8192, FUA)
        export.zero(4096, 16384, MAY_TRIM)
        export.zero(4096, 16384, FAST_ZERO | FUA)
        export.cache(4096, 0)
        export.extents(MIB, 0, REQ_ONE)
    requests = re.findall(r"connection=\d+ (\w+) id=\d+ (.*)\.\.\.", log.read_text())
    assert [f"{name} {rest}".strip() for name, rest in requests] == [
        "Write offset=0x0 count=0x200 fua=1",
        "Write offset=0x200 count=0x200 fua=0",
        "Flush",
        "Trim offset=0x2000 count=0x1000 fua=1",
        "Zero offset=0x4000 count=0x1000 trim=1 fua=0 fast=0",
        "Zero offset=0x4000 count=0x1000 trim=0 fua=1 fast=1",
        "Cache offset=0x0 count=0x1000",
        "Extents offset=0x0 count=0x100000 req_one=1",
    ]


def test_extents(place: Path) -> None:
    with far_server("qcow2", place) as far, opened(f"socket={far.path}") as export:
        hole = HOLE | ZERO
        assert list(export.extents(4 * MIB, 0, 0)) == [
            Extent(0, MIB, hole),
            Extent(MIB, MIB, 0),
            Extent(2 * MIB, 2 * MIB, hole),
        ]
        assert list(export.extents(MIB, MIB + 512, REQ_ONE)) == [Extent(MIB + 512, MIB - 512, 0)]


def test_errors_keep_their_numbers(place: Path) -> None:
    for name in ("EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC"):
        words = ["--filter=error", "memory", "1M", f"error-pread={name}", "error-pread-rate=100%"]
        with far_nbdkit(place, *words) as far, opened(f"socket={far.path}") as export:
            with refused(getattr(errno, name), f"{far.path}: the server says: "):
                export.pread(512, 0)
            export.pwrite(memoryview(b"good"), 0, 0)


def test_block_sizes(place: Path) -> None:
    policy = ["blocksize-minimum=4k", "blocksize-preferred=64k", "blocksize-maximum=128k"]
    words = ["--filter=blocksize-policy", "memory", "4M", *policy, "blocksize-error-policy=error"]
    with far_nbdkit(place, *words) as far, opened(f"socket={far.path}") as export:
        assert export.block_size() == BlockSize(4096, 64 * 1024, 128 * 1024)
        data = os.urandom(MIB)
        export.pwrite(memoryview(data), 0, 0)  # in parts
        assert bytes(export.pread(MIB, 0)) == data


def test_ranges_too_long_for_a_request(place: Path) -> None:
    with far_nbdkit(place, "memory", "6G") as far, opened(f"socket={far.path}") as export:
        export.pwrite(memoryview(b"data"), 5 << 30, 0)
        export.trim(6 << 30, 0, 0)
        assert bytes(export.pread(4, 5 << 30)) == bytes(4)
        export.zero(6 << 30, 0, MAY_TRIM)
        export.cache(6 << 30, 0)
        with refused(errno.EOPNOTSUPP, "too much"):
            export.zero(6 << 30, 0, FAST_ZERO)
        assert next(iter(export.extents(6 << 30, 0, 0))).type == HOLE | ZERO


def test_requests_of_a_client_under_way_at_once(place: Path) -> None:
    log = place / "log"
    words = ["--filter=log", "--filter=delay", "memory", "4M", "delay-read=3", f"logfile={log}"]
    with far_nbdkit(place, *words) as far:
        with Server("-n", "nbd", f"socket={far.path}") as server:
            with connected(server.uri) as client:
                for number in range(16):
                    client.aio_pread(bytearray(4096), number * 4096, lambda error: 1)
                eventually(lambda: log.read_text().count(" Read ") == 16)
                assert "...Read" not in log.read_text()  # none of them has been answered
                while client.aio_in_flight():
                    client.poll(-1)


def test_many_threads(place: Path) -> None:
    sizes = [1, 511, 4096, 100_000, MIB]
    with far_nbdkit(place, "memory", "64M") as far, opened(f"socket={far.path}") as export:
        assert plugin(f"socket={far.path}").waits()

        def exchange(number: int) -> None:
            data = os.urandom(sizes[number % 5])
            export.pwrite(memoryview(data), number * MIB, 0)
            assert bytes(export.pread(len(data), number * MIB)) == data

        with ThreadPoolExecutor(16) as pool:
            for _ in range(4):
                list(pool.map(exchange, range(64)))


# -- ways to a server -------------------------------------------------------------------------


def reads(*arguments: str | Path, name: str = "") -> bool:
    with opened(*arguments, export_name=name) as export:
        return bytes(export.pread(4096, 512)) == CONTENT[512 : 512 + 4096]


def test_by_tcp_and_by_uri(place: Path) -> None:
    with Server("-n", "file", place / "disk.img", listen=("-i", "127.0.0.1", "-p", "0")) as far:
        assert reads("hostname=127.0.0.1", f"port={far.port}")
        assert reads(far.uri)
        assert reads(f"uri={far.uri}")
    with far_nbdkit(place, "file", place / "disk.img") as unix:
        assert reads(unix.uri)


def test_a_socket_that_is_inherited(place: Path) -> None:
    need("nbdinfo")
    with far_nbdkit(place, "file", place / "disk.img") as far:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(far.path))
            fd = link.fileno()
            words = ["-U", "-", "nbd", f"socket-fd={fd}", "--run", 'nbdinfo --size "$uri"']
            assert output(*NBDFORK, *words, pass_fds=[fd]) == f"{len(CONTENT)}\n"
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(far.path))
            fd = link.fileno()
            words = ["-n", "-U", f"{place}/near", "-P", f"{place}/pid", "nbd", f"socket-fd={fd}"]
            output(*NBDFORK, *words, pass_fds=[fd])
        daemon = psutil.Process(int((place / "pid").read_text()))
        try:
            uri = f"nbd+unix:///?socket={place}/near"
            assert output("nbdinfo", "--size", uri) == f"{len(CONTENT)}\n"
        finally:
            daemon.terminate()
            eventually(lambda: not is_alive(daemon))


def test_a_server_that_is_started(place: Path) -> None:
    need("qemu-nbd", "nbdcopy")
    output("qemu-img", "convert", "-f", "raw", "-O", "qcow2", place / "disk.img", place / "qcow2")
    words = ["command=qemu-nbd", *(f"arg={word}" for word in ["-f", "qcow2", place / "qcow2"])]
    with Server("-n", "nbd", *words) as server:
        output("nbdcopy", server.uri, place / "copy")
        output("nbdcopy", server.uri, place / "copy2")  # by the same connection
        [worker] = server.workers()
        [qemu] = worker.children()
    assert (place / "copy").read_bytes() == (place / "copy2").read_bytes() == CONTENT
    eventually(lambda: not qemu.is_running())


def test_one_connection_for_each_client_or_for_all(place: Path) -> None:
    with Server("-n", "file", place / "disk.img") as far:
        for shared, expected in (("false", 2), ("true", 1)):
            with Server("-n", "nbd", far.uri, f"shared={shared}") as server:
                with connected(server.uri) as first, connected(server.uri) as second:
                    assert first.pread(512, 0) == second.pread(512, 0) == CONTENT[:512]
                    assert len(far.serving()) == expected
                    assert first.can_multi_conn() == (shared == "true")
                with connected(server.uri) as third:
                    assert third.pread(512, 0) == CONTENT[:512]
            eventually(lambda: not far.serving())


def test_names_of_exports(place: Path) -> None:
    need("nbdinfo")
    (place / "other.img").write_bytes(bytes(512))
    with Server("-n", "file", f"dir={place}") as far:
        assert reads(f"socket={far.socket}", "export=disk.img")
        assert reads(f"nbd+unix:///disk.img?socket={far.socket}")
        with refused(errno.ENOENT, "server has no export named 'none'"):
            reads(f"socket={far.socket}", "export=none")
        dynamic = [f"socket={far.socket}", "dynamic-export=true"]
        assert reads(*dynamic, name="disk.img")
        with Server("-n", "nbd", *dynamic) as server:
            shown = json.loads(output("nbdinfo", "--list", "--json", server.uri))["exports"]
            names = {export["export-name"]: export["export-size"] for export in shown}
            assert names == {"disk.img": len(CONTENT), "other.img": 512}
            done = run("nbdinfo", server.uri.replace("///", "///none"))
            assert done.returncode != 0
            assert "unknown" in done.stderr.lower() or "No such" in done.stderr


def test_the_name_of_the_default_export(place: Path) -> None:
    path = place / "far"
    with Far(path, *NBDFORK, "-f", "-e", "good", "-U", path, "memory", "1M") as far:
        assert plugin(f"socket={far.path}").default_export(False) == ""
        assert plugin(f"socket={far.path}", "dynamic-export=true").default_export(False) == "good"
    with far_nbdkit(place, "-o", "memory", "1M") as far:
        made = plugin(f"socket={far.path}", "dynamic-export=true")
        assert made.default_export(False) == ""
        assert [export.name for export in made.list_exports(False)] == [""]


# -- TLS --------------------------------------------------------------------------------------


def test_pre_shared_keys(place: Path) -> None:
    need("psktool")
    for name in ("keys", "wrong"):
        output("psktool", "-u", "alice", "-p", place / name)
    words = ["--tls=require", f"--tls-psk={place}/keys", "file", f"{place}/disk.img"]
    with far_nbdkit(place, *words) as far:
        link = f"socket={far.path}"
        assert reads(link, f"tls-psk={place}/keys", "tls-username=alice")
        assert reads(link, "tls=require", f"tls-psk={place}/keys", "tls-username=alice")
        uri = f"nbds+unix://alice@/?socket={far.path}&tls-psk-file={place}/keys"
        assert reads(uri)
        with pytest.raises(OSError, match=f"{far.path}: "):
            reads(link, "tls=require", f"tls-psk={place}/wrong", "tls-username=alice")
        with pytest.raises(OSError, match=f"{far.path}: "):
            reads(link)


def test_certificates(place: Path) -> None:
    need("openssl")
    for name in ("server", "other"):
        (place / name).mkdir()
        make_certificates(place / name)
        (place / name / "ca.pem").rename(place / name / "ca-cert.pem")
        (place / name / "server.pem").rename(place / name / "server-cert.pem")
        (place / name / "server.key").rename(place / name / "server-key.pem")
    for name in ("trusts", "mistrusts"):
        (place / name).mkdir()
    shutil.copy(place / "server/ca-cert.pem", place / "trusts")
    shutil.copy(place / "other/ca-cert.pem", place / "mistrusts")
    [port] = free_ports(1)
    words = ["-i", "127.0.0.1", "-p", str(port), "--tls=require"]
    words += [f"--tls-certificates={place}/server", "-f", "file", f"{place}/disk.img"]
    need("nbdkit")
    process = subprocess.Popen(["nbdkit", *words], stdin=subprocess.DEVNULL)
    try:
        link = "hostname=localhost", f"port={port}", "retry=5"
        assert reads(*link, "tls=require", f"tls-certificates={place}/trusts")
        assert reads(*link, f"tls-certificates={place}/mistrusts", "tls-verify=false")
        with pytest.raises(OSError, match="localhost port"):
            reads(*link[:2], "tls=require", f"tls-certificates={place}/mistrusts")
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_tls_of_a_server_that_has_none(place: Path) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        assert reads(f"socket={far.path}", "tls=on")
        with pytest.raises(OSError, match=f"{far.path}: "):
            reads(f"socket={far.path}", "tls=require")


# -- the server goes away, and comes back -----------------------------------------------------


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


def test_requests_under_way_when_the_server_dies(place: Path) -> None:
    disk = f"{place}/disk.img"
    log = place / "log"
    words = ["--filter=log", "--filter=delay", "file", disk, f"logfile={log}"]
    words += ["delay-read=1", "delay-write=1"]
    with far_nbdkit(place, *words) as far, opened(f"socket={far.path}", "retry=9") as export:
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


def test_a_server_that_is_shutting_down(place: Path) -> None:
    shutting_down = place / "shutting-down"
    words = ["error-pread=ESHUTDOWN", "error-pread-rate=100%", f"error-pread-file={shutting_down}"]
    with far_nbdkit(place, "--filter=error", "memory", "1M", *words) as far:
        with opened(f"socket={far.path}") as export:
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


def test_writes_that_may_be_forgotten(place: Path) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        with opened(f"socket={far.path}") as export:
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
        writer, other = made.open("", False), made.open("", False)
        writer.pwrite(memoryview(b"data"), 0, 0)
        far.kill()
        far.start()
        for client in (writer, other):  # whose flush may be to cover the other's writes
            with refused(errno.EIO, "lost after writes that had not been flushed"):
                client.flush()
            client.flush()
        made.open("", False).flush()


def test_a_client_is_not_told_of_what_another_connection_has_lost(place: Path) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        made = plugin(f"socket={far.path}")
        writer, other = made.open("", False), made.open("", False)
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


# -- what is wrong at the start, and what is told ---------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "say which server by one of uri=, socket=, hostname=, vsock=, socket-fd=, command="),
        ("socket=/s hostname=h", "say which server by one of"),
        ("socket=/s port=1", "port= goes with hostname= or vsock="),
        ("hostname=h port=a/b", "expected a port number or the name of a service"),
        ("vsock=2 port=http", "port=http: with vsock=, the port is a number"),
        ("vsock=x", "vsock=x: expected a whole number"),
        ("socket=/s arg=x", "arg= goes with command="),
        ("command=/none", "command=/none: there is no such program"),
        ("command=true shared=false", "command= is one connection: it needs shared=true"),
        ("socket-fd=0 shared=false", "socket-fd= is one connection"),
        ("socket-fd=99999", "socket-fd=99999: no socket was inherited"),
        ("socket=/s dynamic-export=true shared=true", "a connection for each client"),
        ("socket=/s dynamic-export=true export=x", "either export= or dynamic-export=true"),
        ("nbd://h export=x", "the export's name is a part of the URI"),
        ("http://h", "uri=http://h: expected one of nbd, nbds,"),
        ("/disk.img", "uri=/disk.img: expected one of nbd, nbds,"),
        ("socket=/s tls=maybe", "expected one of: off, on, require"),
        ("socket=/s tls-certificates=/none", "tls-certificates=/none: no such directory"),
        ("socket=/s tls-psk=/none", "tls-psk=/none: there is no such file"),
    ],
)
def test_bad_parameters(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plugin(*arguments.split())
    assert "\n" not in str(caught.value)


def test_without_libnbd(tmp_path: Path) -> None:
    (tmp_path / "nbd.py").write_text("raise ImportError\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = nbdfork("-U", "-", "nbd", "socket=/none", env=environment)
    assert done.returncode == 1
    assert "package python3-libnbd (it is not on PyPI)\n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "name=nbd\n" in output(*NBDFORK, "--dump-plugin", "nbd", env=environment)


def test_dump_plugin_tells_of_libnbd_as_nbdkit_does() -> None:
    need("nbdkit")
    shown = [output(*command, "--dump-plugin", "nbd") for command in (["nbdkit"], NBDFORK)]
    lines = [{line for line in one.splitlines() if line.startswith("libnbd_")} for one in shown]
    assert lines[0] == lines[1] != set()
