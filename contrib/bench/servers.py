"""The servers: how each is told to serve a disk, started, watched and stopped.

Every process is started here, and ended here by its number; nothing else on the machine is
touched.  All servers run with their defaults, except that each may take as many clients as the
benchmark has.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from contrib.bench.compiled import program
from contrib.bench.errors import BenchError
from contrib.bench.materials import Disk
from nbdfork.uri import Endpoint

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "samples" / "scripts"
HERE = ROOT / "contrib" / "bench"

LIMIT = 30.0
"""Seconds in which a server must be ready, and must end."""

MOST_CLIENTS = 256


@dataclass(frozen=True)
class Address:
    """Where a server listens: the path of a Unix domain socket, or a TCP port of 127.0.0.1."""

    path: Path | None = None
    port: int = 0

    def uri(self, export: str) -> str:
        path = str(self.path) if self.path else None
        return Endpoint("127.0.0.1", self.port, path, export_name=export).uri()

    def connect(self) -> socket.socket:
        """Return a connection.  Raises OSError if nobody listens."""
        if self.path is None:
            return socket.create_connection(("127.0.0.1", self.port))
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client


Recipe = Callable[[Disk, Address, Path], list[str]]
"""Return the command that serves a disk at an address; it may write files into a directory."""


def _nbdfork(*plugin: str | Path) -> Recipe:
    return _nbdkit_like([sys.executable, "-m", "nbdfork"], plugin)


def _nbdkit(*plugin: str | Path) -> Recipe:
    return _nbdkit_like(["nbdkit"], plugin)


def _nbdkit_like(program: list[str], plugin: Sequence[str | Path]) -> Recipe:
    """Serve *plugin*, in which SIZE and FILE stand for the disk's; without it, the disk's own."""

    def command(disk: Disk, address: Address, _: Path) -> list[str]:
        listen = ["-U", address.path] if address.path else ["-i", "127.0.0.1", "-p", address.port]
        words = [*program, "-f", "-n", *listen, *(plugin or disk.arguments)]
        return [
            str(word).replace("SIZE", str(disk.size)).replace("FILE", str(disk.path))
            for word in words
        ]

    return command


def _qemu_nbd(disk: Disk, address: Address, _: Path) -> list[str]:
    listen = ["-k", str(address.path)] if address.path else ["-b", "127.0.0.1"]
    port = [] if address.path else ["-p", str(address.port)]
    settings = ["-t", "-e", str(MOST_CLIENTS), "--cache=writeback", "-f", "raw"]
    return ["qemu-nbd", *settings, *listen, *port, str(disk.path)]


def _nbd_server(disk: Disk, address: Address, directory: Path) -> list[str]:
    listen = f"unixsock={address.path}" if address.path else f"port={address.port}"
    config = directory / "config"
    config.write_text(
        f"[generic]\nlistenaddr=127.0.0.1\n{listen}\n[disk]\nexportname={disk.path}\n"
    )
    return ["nbd-server", "-C", str(config), "-p", str(directory / "pid")]


def _limit(disk: Disk, address: Address, _: Path) -> list[str]:
    return [program("limit"), str(disk.path), str(address.path or address.port)]


@dataclass(frozen=True)
class Server:
    """A server: its program, and a recipe for each kind of disk it has.

    A *peer* is what nbdfork is compared with; other columns are variants and references.
    """

    name: str
    program: str
    recipes: Mapping[str, Recipe]
    peer: bool = False
    export: str = ""
    version: tuple[str, ...] = ("--version",)
    daemonizes: bool = field(default=False)  # into the background, leaving its number in "pid"
    prefix: tuple[str, ...] = ()  # words before every command
    root: Path = Path("/")

    def is_installed(self) -> bool:
        if self.root == Path("/"):
            return shutil.which(self.program) is not None
        return any((self.root / folder / self.program).exists() for folder in ("bin", "usr/bin"))


NBDFORK = Server(
    "nbdfork",
    sys.executable,
    {
        "file": _nbdfork("file", "FILE"),
        "ram": _nbdfork("memory", "SIZE"),
        "script": _nbdfork("python", SCRIPTS / "v2_ramdisk.py", "size=SIZE"),
        "computed": _nbdfork("python", SCRIPTS / "cpu_bound.py"),
        "plugin": _nbdfork(),
        "walled": _nbdfork("file", "FILE"),
    },
    version=("-m", "nbdfork", "--version"),
)

SERVERS = (
    NBDFORK,
    Server(
        "nbdfork class",
        sys.executable,
        {"script": _nbdfork(HERE / "ramdisk.py", "SIZE")},
        version=NBDFORK.version,
    ),
    Server(
        "nbdfork sandbox",
        sys.executable,
        {
            "walled": _nbdkit_like(
                [sys.executable, "-m", "nbdfork", "--sandbox=require"], ("file", "FILE")
            )
        },
        version=NBDFORK.version,
    ),
    Server(
        "nbdkit",
        "nbdkit",
        {
            "file": _nbdkit("file", "FILE"),
            "ram": _nbdkit("memory", "SIZE"),
            "script": _nbdkit("python", SCRIPTS / "v2_ramdisk.py", "size=SIZE"),
            "computed": _nbdkit("python", SCRIPTS / "cpu_bound.py"),
            "plugin": _nbdkit(),
        },
        peer=True,
    ),
    Server("qemu-nbd", "qemu-nbd", {"file": _qemu_nbd}, peer=True),
    Server(
        "nbd-server",
        "nbd-server",
        {"file": _nbd_server},
        peer=True,
        export="disk",
        version=("-V",),
        daemonizes=True,
    ),
)

LIMIT_LOOP = Server("limit", "cc", {"file": _limit})
"""A loop in C that only receives, reads or writes the file, and sends."""

_OWN_FOLDERS = ("bin", "etc", "lib", "lib32", "lib64", "sbin", "usr")

_IN_ROOT = (
    """\
root=$1
shift
for folder in """
    + " ".join(_OWN_FOLDERS)
    + """; do
    if [ -d "$root/$folder" ] && [ ! -L "$root/$folder" ]; then
        mount --bind "$root/$folder" "/$folder"
    fi
done
exec "$@"
"""
)
"""Run a program with the folders of another system in place of this one's, for itself alone: disk
and socket are where they are for everybody."""


def peers_in(root: Path) -> list[Server]:
    """Return the peers that are installed in another system's root directory.

    They are run in a mount namespace, which only root can make.
    """
    return [_in_root(root, server) for server in SERVERS if server.peer]


def _in_root(root: Path, server: Server) -> Server:
    prefix = ("unshare", "--mount", "sh", "-euc", _IN_ROOT, "sh", str(root))
    return replace(server, name=f"chroot {server.name}", prefix=prefix, root=root)


class Running:
    """A server that runs: where it is, and what its processes have used."""

    def __init__(self, server: Server, disk: Disk, address: Address, directory: Path) -> None:
        self.server = server
        self.disk = disk
        self.address = address
        self.directory = directory
        self.uri = address.uri(server.export)
        begun = time.perf_counter()
        self._launched = self._launch()
        try:
            self._await_greeting()
            self.startup = time.perf_counter() - begun
            self.process = self._find()
        except BaseException:
            self._launched.kill()
            self._launched.wait()
            raise

    def _launch(self) -> subprocess.Popen[bytes]:
        recipe = self.server.recipes[self.disk.kind]
        command = [*self.server.prefix, *recipe(self.disk, self.address, self.directory)]
        # A variable that keeps Python from caching bytecode would be measured as a slow start.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPATH"] = str(ROOT)
        with (self.directory / "log").open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _await_greeting(self) -> None:
        """Wait until a client is greeted: listening alone does not mean that anybody serves."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            status = self._launched.poll()
            if status is not None and not (self.server.daemonizes and status == 0):
                break
            try:
                with self.address.connect() as client:
                    client.settimeout(LIMIT)
                    if client.recv(1):
                        return
            except OSError:
                time.sleep(0.001)
        raise BenchError(f"{self.server.name} did not start: {self._log()}")

    def _log(self) -> str:
        return (self.directory / "log").read_text(errors="replace").strip()[-500:]

    def _find(self) -> psutil.Process:
        if not self.server.daemonizes:
            return psutil.Process(self._launched.pid)
        self._launched.wait(LIMIT)
        return psutil.Process(int((self.directory / "pid").read_text()))

    def processes(self) -> list[psutil.Process]:
        """Return the server's first process and all below it; none if it is no more."""
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far, that of children which have ended included."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def stop(self) -> None:
        """End the server, kindly first."""
        everyone = self.processes()
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.terminate()
        _, left = psutil.wait_procs(everyone, timeout=LIMIT)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._launched.wait(LIMIT)


@contextmanager
def running(server: Server, disk: Disk, transport: str) -> Iterator[Running]:
    """Start a server, yield it when it is ready, and stop it.

    *transport*: "unix" or "tcp".  Raises `BenchError`.
    """
    with tempfile.TemporaryDirectory(prefix="nbdfork-bench") as name:
        own = Path(name)
        address = Address(own / "sock") if transport == "unix" else Address(port=_free_port())
        server_running = Running(server, disk, address, own)
        try:
            yield server_running
        finally:
            server_running.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
