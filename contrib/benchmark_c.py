#!/usr/bin/env python3
"""Measure plugins of nbdkit, which are written in C, under nbdkit and under nbdfork.

The rounds are interleaved and the medians are shown; look at the ratios, not at the figures.  It
needs nbdkit, nbdinfo, and fio with its nbd engine.

    python contrib/benchmark_c.py [--seconds N] [--rounds N] [PLUGIN ...]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SERVERS = {
    "nbdkit": ["nbdkit", "-f", "-n"],
    "nbdfork": [sys.executable, "-m", "nbdfork", "-f", "-n"],
}
MEBIBYTES = 256
SIZE = f"{MEBIBYTES}M"
READ_ONLY = {"pattern"}
PLUGINS = ("memory", "null", "pattern", "file")


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
    Load("write 4k QD1", "randwrite", "4k", 1),
    Load("write 4k QD32", "randwrite", "4k", 32),
    Load("read 256k QD8", "read", "256k", 8),
    Load("write 256k QD8", "write", "256k", 8),
)


def plugin_file(name: str) -> str:
    """Return the path of nbdkit's plugin *name*."""
    dumped = subprocess.run(
        ["nbdkit", name, "--dump-plugin"], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in dumped.splitlines())["path"]


def parameter(plugin: str, directory: Path) -> str:
    """Return what *plugin* is given: the size of the disk, or a file of that size."""
    if plugin != "file":
        return SIZE
    disk = directory / "disk.img"
    if not disk.exists():
        with disk.open("wb") as file:
            for _ in range(MEBIBYTES):
                file.write(os.urandom(1 << 20))
    return f"file={disk}"


@contextmanager
def running(server: str, plugin: str, directory: Path) -> Iterator[str]:
    """Start a server of *plugin*, stop it in the end; yield its URI once it answers."""
    socket = directory / "sock"
    socket.unlink(missing_ok=True)
    uri = f"nbd+unix:///?socket={socket}"
    given = parameter(plugin, directory)
    command = [*SERVERS[server], "-U", str(socket), plugin_file(plugin), given]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while subprocess.run(["nbdinfo", "--size", uri], capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                sys.exit(f"{server} does not answer: {' '.join(command)}")
            time.sleep(0.05)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def measure(uri: str, load: Load, seconds: int) -> float:
    """Return operations per second."""
    command = [
        "fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={load.rw}",
        f"--bs={load.block}", f"--iodepth={load.depth}", f"--size={SIZE}", "--time_based",
        f"--runtime={seconds}", "--output-format=json", "--randrepeat=1",
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    job = json.loads(text[text.index("{") :])["jobs"][0]
    return float(job["read"]["iops"] + job["write"]["iops"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("plugins", nargs="*", metavar="PLUGIN", help=", ".join(PLUGINS))
    options = parser.parse_args()
    found: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(options.rounds):
            for plugin in options.plugins or PLUGINS:
                for server in SERVERS:
                    with running(server, plugin, Path(temporary)) as uri:
                        for load in LOADS:
                            if plugin in READ_ONLY and "write" in load.rw:
                                continue
                            iops = measure(uri, load, options.seconds)
                            found.setdefault((plugin, load.name, server), []).append(iops)
    print(f"{'operations per second':26}{'nbdkit':>12}{'nbdfork':>12}")
    for plugin, load_name in dict.fromkeys(key[:2] for key in found):
        theirs, ours = (median(found[plugin, load_name, server]) for server in SERVERS)
        print(f"{plugin:10}{load_name:16}{theirs:>12,.0f}{ours:>12,.0f}  ({ours / theirs:.2f}x)")


if __name__ == "__main__":
    main()
