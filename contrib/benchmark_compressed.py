#!/usr/bin/env python3
"""Measure compressed disks under the gzip and xz filters of nbdkit and of nbdfork, in one run.

For each: how long the first client waits, how fast nbdcopy reads the disk from its beginning to its
end, and how fast fio reads 64 KiB at random places.  nbdkit unpacks a gzip disk to a temporary file
for its first client, so that its reads are then those of a file.  The rounds are interleaved, each
with a new server; look at the ratios of the medians.  It needs nbdkit, libnbd's tools, gzip, xz,
and fio with its nbd engine.

    python contrib/benchmark_compressed.py [--seconds N] [--rounds N] [--size MIB]
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVERS = {"nbdkit": ["nbdkit", "-f"], "nbdfork": [sys.executable, "-m", "nbdfork", "-f"]}

FORMATS = {
    "gzip": ["gzip", "-k", "-1"],
    "xz": ["xz", "-k", "-1", "--block-size=1MiB"],
}

ROWS = {
    "first client": "s",
    "nbdcopy": "MB/s",
    "fio 64k randread": "MB/s",
}


def make_disk(path: Path, mib: int) -> None:
    """Write a disk of noise, zeroes and text."""
    chance = random.Random(1)
    with path.open("wb") as disk:
        for number in range(mib):
            if number % 4 == 0:
                disk.write(chance.randbytes(1 << 20))
            elif number % 4 == 1:
                disk.write(bytes(1 << 20))
            else:
                lines = b"".join(b"line %d\n" % chance.randrange(10**9) for _ in range(80000))
                disk.write(lines[: 1 << 20].ljust(1 << 20, b"."))


@contextmanager
def running(command: list[str], name: str, disk: Path) -> Iterator[str]:
    """Start a server and stop it in the end; yield its URI."""
    socket = disk.with_name("sock")
    socket.unlink(missing_ok=True)
    words = [*command, "-U", str(socket), f"--filter={name}", "file", str(disk)]
    process = subprocess.Popen(words)
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            if time.monotonic() > deadline:
                raise SystemExit(f"it does not start: {' '.join(words)}")
            time.sleep(0.01)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.terminate()
        process.wait(30)


def seconds_of(*command: str) -> float:
    """Run *command* and return how long it took."""
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def random_reads(uri: str, mib: int, seconds: int) -> float:
    """Return the bytes read in a second."""
    command = [
        "fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", "--rw=randread", "--bs=64k",
        "--iodepth=1", f"--size={mib}M", "--time_based", f"--runtime={seconds}", "--randrepeat=1",
        "--output-format=json",
    ]  # fmt: skip
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    job = json.loads(report[report.index("{") :])["jobs"][0]  # a greeting comes first
    return float(job["read"]["bw_bytes"])


def measure(uri: str, mib: int, seconds: int) -> list[float]:
    """Return what `ROWS` names."""
    waited = seconds_of("nbdinfo", "--size", uri)
    copied = seconds_of("nbdcopy", uri, "null:")
    return [waited, (mib << 20) / copied / 1e6, random_reads(uri, mib, seconds) / 1e6]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, metavar="MIB")
    options = parser.parse_args()
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        disk = Path(directory, "disk")
        make_disk(disk, options.size)
        for command in FORMATS.values():
            subprocess.run([*command, str(disk)], check=True)
        for _ in range(options.rounds):
            for name, suffix in zip(FORMATS, (".gz", ".xz"), strict=True):
                for server, command in SERVERS.items():
                    with running(command, name, disk.with_suffix(suffix)) as uri:
                        values = measure(uri, options.size, options.seconds)
                    for row, value in zip(ROWS, values, strict=True):
                        found[name, row, server].append(value)
    print(f"{'median':30}{'nbdkit':>10}{'nbdfork':>10}   ratio")
    for name in FORMATS:
        for row, unit in ROWS.items():
            nbdkit, nbdfork = (statistics.median(found[name, row, one]) for one in SERVERS)
            shown = f"{name}, {row} ({unit})"
            print(f"{shown:30}{nbdkit:>10.2f}{nbdfork:>10.2f}  {nbdfork / nbdkit:5.2f}x")


if __name__ == "__main__":
    main()
