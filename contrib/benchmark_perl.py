"""Compare a RAM disk in Perl under nbdfork and under nbdkit: 4 KiB reads and writes with fio.

The servers take turns, round by round, because a machine's speed changes while it is measured.

    python contrib/benchmark_perl.py [ROUNDS]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

SCRIPT = """\
my $disk = "\\0" x (64 * 1024 * 1024);
sub open { return 1 }
sub get_size { return length $disk }
sub pread { my ($h, $count, $offset) = @_; return substr $disk, $offset, $count }
sub pwrite { my ($h, $buf, $offset) = @_; substr($disk, $offset, length $buf) = $buf; }
sub can_write { return 1 }
sub flush { }
"""

SERVERS = {
    "nbdfork": [sys.executable, "-m", "nbdfork", "-f", "-n"],
    "nbdkit": ["nbdkit", "-f", "-n"],
}
LOADS = [(mode, depth) for mode in ("randread", "randwrite") for depth in (1, 32)]
SECONDS = 2


def measure(server: list[str], directory: Path, mode: str, depth: int) -> float:
    """Return operations a second."""
    socket = directory / "socket"
    socket.unlink(missing_ok=True)
    command = [*server, "-U", str(socket), "perl", str(directory / "ram.pl")]
    process = subprocess.Popen(command)
    try:
        while not socket.exists():
            time.sleep(0.01)
        uri = f"nbd+unix:///?socket={socket}"
        job = ["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--rw={mode}"]
        job += [f"--iodepth={depth}", "--bs=4k", "--size=64m", "--time_based"]
        job += [f"--runtime={SECONDS}", "--output-format=json"]
        done = subprocess.run(job, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        return float(found["read" if mode == "randread" else "write"]["iops"])
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure, and print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "ram.pl").write_text(SCRIPT)
        for _ in range(rounds):
            for mode, depth in LOADS:
                for server, command in SERVERS.items():
                    found[server, mode, depth].append(measure(command, directory, mode, depth))
    print(f"{os.cpu_count()} processors, {rounds} rounds, operations a second (median)")
    for mode, depth in LOADS:
        numbers = [statistics.median(found[server, mode, depth]) for server in SERVERS]
        shown = "  ".join(f"{s} {n:8.0f}" for s, n in zip(SERVERS, numbers, strict=True))
        print(f"{mode:9} QD{depth:<2}  {shown}  ratio {numbers[0] / numbers[1]:.2f}")


main()
