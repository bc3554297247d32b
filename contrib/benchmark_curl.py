#!/usr/bin/env python3
"""Measure nbdfork's curl plugin beside nbdkit's, with a real nginx, in one run.

Both read the same file of one nginx on the loopback address; fio's nbd engine reads 4 KiB here
and there, one request at a time and 16 at once.  The rounds are interleaved and the medians are
compared, because a shared machine disturbs; look at the ratio, not at the figures.  It needs fio,
nginx, openssl and nbdkit.

    python contrib/benchmark_curl.py [--seconds N] [--rounds N] [--https]
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.nginx import Nginx

SIZE = 64 << 20
DEPTHS = (1, 16)
SERVERS = {"nbdkit": ["nbdkit"], "nbdfork": [sys.executable, "-m", "nbdfork", "-n"]}


def measure(server: list[str], arguments: list[str], depth: int, seconds: int) -> float:
    """Return how many microseconds pass from one reply to the next, with *depth* requests."""
    fio = [
        *("fio", "--name=x", "--ioengine=nbd", "--rw=randread", "--bs=4k", f"--iodepth={depth}"),
        *(f"--size={SIZE}", "--time_based", f"--runtime={seconds}", "--output-format=json"),
    ]
    command = [*server, "-f", "-r", "-U", "-", "curl", *arguments]
    command += ["--run", shlex.join(fio) + ' --uri="$uri"']
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    job = json.loads(text[text.index("{") :])["jobs"][0]
    return 1e6 / float(job["read"]["iops"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--https", action="store_true", help="read by https")
    options = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    with Nginx() as web:
        web.file("disk", os.urandom(SIZE))
        arguments = [f"{web.url}/disk"]
        if options.https:
            arguments = [f"{web.tls_url}/disk", f"cainfo={web.ca}"]
        for _ in range(options.rounds):
            for depth in DEPTHS:
                for name, server in SERVERS.items():
                    taken = measure(server, arguments, depth, options.seconds)
                    found.setdefault((name, depth), []).append(taken)
    print(f"{'4 KiB reads, medians':24}{'nbdkit':>12}{'nbdfork':>12}{'ratio':>8}")
    for depth in DEPTHS:
        kit, fork = (statistics.median(found[name, depth]) for name in ("nbdkit", "nbdfork"))
        print(f"QD{depth:<22}{kit:>9.0f} us{fork:>9.0f} us{fork / kit:>7.2f}x")


if __name__ == "__main__":
    main()
