#!/usr/bin/env python3
"""Measure a shell script under the sh plugins of nbdkit and of nbdfork, in one run, with fio.

The script reads a file with dd.  First one client, one request at a time, which is the script's own
time; then two clients, and one with requests in flight, with the thread model parallel.  The rounds
are interleaved and the best of each is kept; look at the ratios, not at the figures.  It needs fio
with its nbd engine and nbdkit.

    python contrib/benchmark_sh.py [--seconds N] [--rounds N]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """\
#!/bin/sh
case "$1" in
get_ready) truncate -s 64M $tmpdir/disk ;;
get_size) echo 64M ;;
thread_model) echo parallel ;;
can_write) exit 0 ;;
pread) exec dd if=$tmpdir/disk skip=$4 count=$3 iflag=skip_bytes,count_bytes bs=64k status=none ;;
pwrite) exec dd of=$tmpdir/disk seek=$4 conv=notrunc oflag=seek_bytes bs=64k status=none ;;
*) exit 2 ;;
esac
"""

SERVERS = {
    "nbdkit": ["nbdkit", "-f", "-n"],
    "nbdfork": [sys.executable, "-m", "nbdfork", "-f", "-n"],
}


@dataclass(frozen=True)
class Load:
    """What fio does, and how many clients do it at once."""

    name: str
    rw: str
    size: str
    depth: int
    clients: int


LOADS = (
    Load("read 4k QD1", "randread", "4k", 1, 1),
    Load("read 4k QD8", "randread", "4k", 8, 1),
    Load("read 4k, 2 clients", "randread", "4k", 1, 2),
    Load("read 1M QD1", "read", "1M", 1, 1),
    Load("write 1M QD1", "write", "1M", 1, 1),
)


@contextmanager
def running(command: list[str], script: Path, socket: Path) -> Iterator[str]:
    """Start a server, wait until it answers, and stop it in the end; yield its URI."""
    socket.unlink(missing_ok=True)
    process = subprocess.Popen([*command, "-U", str(socket), "sh", str(script)])
    uri = f"nbd+unix:///?socket={socket}"
    try:
        wait_for(uri)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def wait_for(uri: str) -> None:
    """Wait until a server answers at *uri*; 30 seconds are enough for any."""
    deadline = time.monotonic() + 30
    while subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise SystemExit(f"no server answers at {uri}")
        time.sleep(0.05)


def operations(report: str) -> float:
    """Return the operations per second of one client, from fio's report."""
    job = json.loads(report[report.index("{") :])["jobs"][0]  # a greeting comes first
    return float(job["read"]["iops"] + job["write"]["iops"])


def measure(uri: str, load: Load, seconds: int) -> float:
    """Return operations per second, of all clients together."""
    command = [
        "fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={load.rw}",
        f"--bs={load.size}", f"--iodepth={load.depth}", "--size=64M", "--time_based",
        f"--runtime={seconds}", "--output-format=json", "--randrepeat=1",
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
        socket, script = Path(directory) / "sock", Path(directory) / "script"
        script.write_text(SCRIPT)
        script.chmod(0o700)
        for _ in range(options.rounds):
            for load in LOADS:
                for server, command in SERVERS.items():
                    with running(command, script, socket) as uri:
                        found = measure(uri, load, options.seconds)
                    best[server, load.name] = max(best[server, load.name], found)
    print(f"operations per second    {'nbdkit':>10}{'nbdfork':>10}   ratio")
    for load in LOADS:
        nbdkit, nbdfork = best["nbdkit", load.name], best["nbdfork", load.name]
        print(f"{load.name:25}{nbdkit:>10,.0f}{nbdfork:>10,.0f}  {nbdfork / nbdkit:5.2f}x")


if __name__ == "__main__":
    main()
