"""Disks that are somewhere else: NBD, SSH, web and S3 servers, near and 10 ms away.

Both are on this machine; what makes one of them far is a proxy in between that holds back what it
passes on.
"""

import contextlib
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from contrib.bench.errors import BenchError
from contrib.bench.materials import Disk, Materials

DELAY_SECONDS = 0.005
"""How long the proxy holds back what it passes on, in each direction."""

_PIECE = 256 * 1024

HOLE = 32 * 1024
"""Bytes of a hole, and of the data between two of them: some of both are in a large request."""


class SlowWay:
    """A proxy on a free port of the loopback address, to *port* of it.  A context manager."""

    def __init__(self, port: int) -> None:
        self._there = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "SlowWay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        for one in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._there))
                self._sockets += [near, far]
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _hold_back(near, far)
                _hold_back(far, near)


def _hold_back(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes from *source*, each piece as late as the others."""
    pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def receive() -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_PIECE)
            except OSError:
                data = b""
            pieces.put((time.monotonic() + DELAY_SECONDS, data))

    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = pieces.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)

    for step in (receive, send):
        threading.Thread(target=step, daemon=True).start()


def _reached(port: int, is_far: bool, materials: Materials) -> int:
    return materials.stack.enter_context(SlowWay(port)).port if is_far else port


def nbd_server(is_far: bool, materials: Materials) -> Disk:
    """Return the disk of an nbdkit of its own, which runs until the end."""
    return _nbd_disk(is_far, materials, materials.filling)


def nbd_server_with_holes(is_far: bool, materials: Materials) -> Disk:
    """Return such a disk in which every other piece is a hole."""
    path = materials.directory / "with-holes"
    if not path.exists():
        with path.open("wb") as disk:
            disk.truncate(materials.ram_size)
            for start in range(0, materials.ram_size, 2 * HOLE):
                os.pwrite(disk.fileno(), b"x" * HOLE, start)
    return _nbd_disk(is_far, materials, path)


def _nbd_disk(is_far: bool, materials: Materials, path: Path) -> Disk:
    from tests.support.daemon import Daemon  # and with it pytest, as for other far ends
    from tests.support.ports import free_ports

    [port] = free_ports(1)
    words = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "file", str(path)]
    materials.stack.enter_context(Daemon(*words, where=port))
    uri = f"uri=nbd://127.0.0.1:{_reached(port, is_far, materials)}"
    return Disk("plugin", materials.ram_size, arguments=("nbd", uri))


def ssh_host(is_far: bool, materials: Materials) -> Disk:
    """Return a file on an sshd of its own, which runs until the end."""
    from tests.support.sshd import Sshd

    host = materials.stack.enter_context(Sshd())
    path = host.file("filling", materials.filling.read_bytes())
    port = _reached(host.port, is_far, materials)
    known = host.known_hosts.read_text()
    host.known_hosts.write_text(known.replace(f":{host.port} ", f":{port} "))
    words = [word for word in host.way if not word.startswith("port=")]
    return Disk("plugin", materials.ram_size, arguments=("ssh", *words, f"port={port}", str(path)))


def web_server(is_far: bool, materials: Materials) -> Disk:
    """Return a file on an nginx of its own, which runs until the end."""
    from tests.support.nginx import Nginx

    server = materials.stack.enter_context(Nginx())
    server.file("disk", materials.filling.read_bytes())
    url = f"http://127.0.0.1:{_reached(server.port, is_far, materials)}/disk"
    return Disk("plugin", materials.ram_size, arguments=("-r", "curl", url))


def object_store(is_far: bool, materials: Materials) -> Disk:
    """Return an object in a store of its own, Ceph, which runs until the end."""
    from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

    for program in ("ceph-mon", "radosgw"):
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed")
    store = materials.stack.enter_context(S3Server())
    store.client().put_object(Bucket=BUCKET, Key="bench", Body=materials.filling.read_bytes())
    where = f"endpoint-url=http://127.0.0.1:{_reached(store.port, is_far, materials)}"
    words = (where, f"bucket={BUCKET}", "key=bench")
    secrets = (f"access-key={ACCESS_KEY}", f"secret-key={SECRET_KEY}")
    return Disk("plugin", materials.ram_size, arguments=("-r", "S3", *words, *secrets))


SERVERS: Mapping[str, Callable[[bool, Materials], Disk]] = {
    "nbd": nbd_server,
    "nbd with holes": nbd_server_with_holes,
    "ssh": ssh_host,
    "curl": web_server,
    "s3": object_store,
}
"""How the disks are made, by the plugin that reaches them."""

PLACES = {"near": False, "10 ms away": True}
"""Where far ends are, and whether that is far."""

DISKS = {
    f"{way} {place}": partial(make, is_far)
    for way, make in SERVERS.items()
    for place, is_far in PLACES.items()
}
