#!/usr/bin/env python3
"""Measure scripts for nbdkit's Python API under nbdkit and under nbdfork, in one run, with fio.

First a RAM disk, random reads and writes of 4 KiB with 32 requests in flight.  Then a disk whose
content is computed, read by two clients at once: nbdfork gives each a process, nbdkit serves both
under one interpreter lock.  The rounds are interleaved and the best of each is kept; look at the
ratios, not at the figures.  It needs fio with its nbd engine, nbdkit and its python plugin.

    python contrib/benchmark_scripts.py [--seconds N] [--rounds N]
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark import operations, wait_for

SCRIPTS = Path(__file__).parent.parent / "tests" / "scripts"

SERVERS = {
    "nbdkit": ["nbdkit", "-f", "-n"],
    "nbdfork": [sys.executable, "-m", "nbdfork", "-f", "-n"],
}


@dataclass(frozen=True)
class Load:
    """A script with its parameters, what fio does, and how many clients do it at once."""

    name: str
    script: tuple[str, ...]
    rw: str
    depth: int
    clients: int


RAM_DISK = ("v2_ramdisk.py", "size=64M")
COMPUTED = ("cpu_bound.py",)

LOADS = (
    Load("RAM disk, read 4k QD32", RAM_DISK, "randread", 32, 1),
    Load("RAM disk, write 4k QD32", RAM_DISK, "randwrite", 32, 1),
    Load("computed, 1 client", COMPUTED, "randread", 4, 1),
    Load("computed, 2 clients", COMPUTED, "randread", 4, 2),
)


@contextmanager
def running(command: list[str], script: tuple[str, ...], socket: Path) -> Iterator[str]:
    """Start a server, wait until it answers, and stop it in the end; yield its URI."""
    socket.unlink(missing_ok=True)
    path = str(SCRIPTS / script[0])
    process = subprocess.Popen([*command, "-U", str(socket), "python", path, *script[1:]])
    uri = f"nbd+unix:///?socket={socket}"
    try:
        wait_for(uri)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def measure(uri: str, load: Load, seconds: int) -> float:
    """Return operations per second, of all clients together."""
    command = [
        "fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={load.rw}", "--bs=4k",
        f"--iodepth={load.depth}", "--size=64M", "--time_based", f"--runtime={seconds}",
        "--output-format=json", "--randrepeat=1",
    ]  # fmt: skip
    clients = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(load.clients)
    ]
    return sum(operations(client.communicate()[0]) for client in clients)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    best = {(server, load.name): 0.0 for server in SERVERS for load in LOADS}
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "sock"
        for _ in range(options.rounds):
            for load in LOADS:
                for server, command in SERVERS.items():
                    with running(command, load.script, socket) as uri:
                        found = measure(uri, load, options.seconds)
                    best[server, load.name] = max(best[server, load.name], found)
    print(f"operations per second    {'nbdkit':>10}{'nbdfork':>10}   ratio")
    for load in LOADS:
        nbdkit, nbdfork = best["nbdkit", load.name], best["nbdfork", load.name]
        print(f"{load.name:25}{nbdkit:>10,.0f}{nbdfork:>10,.0f}  {nbdfork / nbdkit:5.2f}x")


if __name__ == "__main__":
    main()
