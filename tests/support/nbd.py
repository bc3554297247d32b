"""What the tests of the nbd plugin share: servers for it to stand in front of."""

from functools import partial
from pathlib import Path

import psutil

from tests.support import plugins
from tests.support.far import Far, far_nbdkit, far_qemu_nbd
from tests.support.harness import (
    NBDFORK,
    eventually,
    is_alive,
    need,
    output,
)
from tests.support.noise import noise
from tests.support.ports import free_ports, is_listening

MIB = 1 << 20
CONTENT = noise(2 * MIB)
"""What is in their disk.img."""

plugin = partial(plugins.plugin, "nbd")
opened = partial(plugins.opening, "nbd", read_only=False)


def reads(*arguments: str | Path, name: str = "") -> bool:
    with opened(*arguments, export_name=name) as export:
        return bytes(export.pread(4096, 512)) == CONTENT[512 : 512 + 4096]


class FarNbdServer(Far):
    """nbd-server, which serves more than one client only if it is a daemon."""

    def __init__(self, place: Path) -> None:
        need("nbd-server")
        [port] = free_ports(1)
        (place / "config").write_text(
            f"[generic]\nunixsock = {place}/far\nport = {port}\nlistenaddr = 127.0.0.1\n"
            f"[default]\nexportname = {place}/disk.img\nflush = true\nfua = true\n"
        )
        self._pidfile = place / "pid"
        super().__init__(place / "far", "nbd-server", "-C", place / "config", "-p", self._pidfile)
        self._daemon: psutil.Process | None = None

    def start(self) -> None:
        output(*self.command)
        eventually(lambda: self._pidfile.exists() and self._pidfile.read_text().strip())
        self._daemon = psutil.Process(int(self._pidfile.read_text()))
        eventually(lambda: is_listening(self.path))

    @property
    def is_running(self) -> bool:
        return self._daemon is not None and is_alive(self._daemon)

    def stop(self) -> int:
        self.kill()
        return 0

    def kill(self) -> None:
        if self._daemon is not None:
            processes = [self._daemon, *self._daemon.children()]
            for process in processes:
                process.kill()
            eventually(lambda: not any(map(is_alive, processes)))
            self._daemon = None


def far_server(kind: str, place: Path) -> Far:
    """One of the servers there are, with disk.img."""
    path, disk = place / "far", place / "disk.img"
    match kind:
        case "qemu-nbd":
            words = ["-f", "raw", "--discard=unmap", "-x", "", "-D", "a disk"]
            return far_qemu_nbd(place, *words, disk)
        case "qcow2":
            image = place / "image"
            output("qemu-img", "create", "-q", "-f", "qcow2", image, "4M")
            output(
                "qemu-io", "-f", "qcow2", image, "-c", "write -P 9 1M 1M", "-c", "write -z 3M 64k"
            )
            return far_qemu_nbd(place, "-f", "qcow2", image)
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
