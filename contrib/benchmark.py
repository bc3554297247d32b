#!/usr/bin/env python3
"""Measure nbdfork beside nbdkit, qemu-nbd and nbd-server, in one run, with fio's nbd engine.

All serve the same file, which stays in the page cache, on a Unix domain socket (nbd-server: on
loopback TCP).  The rounds are interleaved and the best of each is kept, because a shared machine
disturbs; look at the ratios, not at the figures.  It needs fio, and those of the servers that are
to be measured.

    python contrib/benchmark.py [--seconds N] [--rounds N] [SERVER ...]
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SIZE = 256 << 20
NBD_SERVER_PORT = 10899


@dataclass(frozen=True)
class Load:
    """What fio does: its rw=, block size and queue depth."""

    name: str
    rw: str
    block: str
    depth: int


LOADS = (
    Load("read 4k QD1", "randread", "4k", 1),
    Load("read 4k QD32", "randread", "4k", 32),
    Load("write 4k QD32", "randwrite", "4k", 32),
    Load("read 256k QD8", "read", "256k", 8),
    Load("write 256k QD8", "write", "256k", 8),
)


@dataclass(frozen=True)
class Server:
    """A server: the command that serves a file, and the URI to find it by."""

    command: Callable[[Path, Path], list[str]]
    uri: Callable[[Path], str]


def unix_uri(socket: Path) -> str:
    return f"nbd+unix:///?socket={socket}"


def nbd_server(disk: Path, socket: Path) -> list[str]:
    config = socket.with_suffix(".conf")
    config.write_text(
        f"[generic]\nlistenaddr=127.0.0.1\nport={NBD_SERVER_PORT}\n[disk]\nexportname={disk}\n"
    )
    return ["nbd-server", "-C", str(config), "-p", str(socket.with_suffix(".pid"))]


NBDFORK = [sys.executable, "-m", "nbdfork"]

SERVERS = {
    "nbdfork": Server(
        lambda disk, socket: [*NBDFORK, "-f", "-n", "-U", str(socket), "file", str(disk)], unix_uri
    ),
    "nbdkit": Server(
        lambda disk, socket: ["nbdkit", "-f", "-U", str(socket), "file", str(disk)], unix_uri
    ),
    "qemu-nbd": Server(
        lambda disk, socket: ["qemu-nbd", "-t", "-f", "raw", "-k", str(socket), str(disk)], unix_uri
    ),
    "nbd-server": Server(nbd_server, lambda _: f"nbd://127.0.0.1:{NBD_SERVER_PORT}/disk"),
}


@contextmanager
def running(server: Server, disk: Path, directory: Path) -> Iterator[str]:
    """Start a server, wait until it answers, and stop it in the end; yield its URI."""
    socket = directory / "sock"
    socket.unlink(missing_ok=True)
    command = server.command(disk, socket)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    uri = server.uri(socket)
    try:
        wait_for(uri)
        yield uri
    finally:
        process.terminate()
        process.wait(30)
        pidfile = socket.with_suffix(".pid")
        if pidfile.exists():  # nbd-server goes into the background
            os.kill(int(pidfile.read_text()), signal.SIGTERM)
            pidfile.unlink(missing_ok=True)


def measure(uri: str, load: Load, seconds: int) -> float:
    """Return operations per second."""
    command = [
        "fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={load.rw}",
        f"--bs={load.block}", f"--iodepth={load.depth}", f"--size={SIZE}", "--time_based",
        f"--runtime={seconds}", "--output-format=json", "--randrepeat=1",
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return operations(text)


def operations(text: str) -> float:
    """Return the operations per second in what fio printed."""
    job = json.loads(text[text.index("{") :])["jobs"][0]
    return float(job["read"]["iops"] + job["write"]["iops"])


def wait_for(uri: str) -> None:
    """Wait until a server answers at *uri*; exit if it does not."""
    for _ in range(200):
        if subprocess.run(["nbdinfo", "--size", uri], capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    sys.exit(f"no server answers at {uri}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=", ".join(SERVERS))
    options = parser.parse_args()
    names = options.servers or [n for n in SERVERS if n == "nbdfork" or shutil.which(n)]
    best = {(name, load.name): 0.0 for name in names for load in LOADS}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        disk = directory / "disk"
        disk.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
        for _ in range(options.rounds):
            for name in names:
                with running(SERVERS[name], disk, directory) as uri:
                    for load in LOADS:
                        iops = measure(uri, load, options.seconds)
                        best[name, load.name] = max(best[name, load.name], iops)
    print("operations per second (and nbdfork's ratio to it)")
    print(f"{'':16}" + "".join(f"{name:>20}" for name in names))
    for load in LOADS:
        row = f"{load.name:16}"
        for name in names:
            iops = best[name, load.name]
            ratio = best.get(("nbdfork", load.name), 0) / iops
            row += f"{iops:>12,.0f} ({ratio:4.2f}x)"
        print(row)


if __name__ == "__main__":
    main()
