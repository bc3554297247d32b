"""Compare a RAM disk in a script under nbdfork and under nbdkit: 4 KiB reads and writes with fio.

The servers take turns, round by round, because a machine's speed changes while it is measured.

    python contrib/benchmark_scripts.py [ROUNDS] [LANGUAGE ...]
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

PERL = """\
my $disk = "\\0" x (64 * 1024 * 1024);
sub open { return 1 }
sub get_size { return length $disk }
sub pread { my ($h, $count, $offset) = @_; return substr $disk, $offset, $count }
sub pwrite { my ($h, $buf, $offset) = @_; substr($disk, $offset, length $buf) = $buf; }
sub can_write { return 1 }
sub flush { }
"""

RUBY = """\
$disk = "\\0".b * (64 * 1024 * 1024)
def open(readonly) = 1
def get_size(h) = $disk.bytesize
def pread(h, count, offset) = $disk.byteslice(offset, count)
def pwrite(h, buf, offset)
  $disk[offset, buf.length] = buf
end
def flush(h) = nil
"""

# Strings of these two languages cannot be changed: a table has a string for each 4 KiB.

LUA = """\
local zeroes = string.rep("\\0", 4096)
local pages = {}
function open(readonly) return 1 end
function get_size(h) return 64 * 1024 * 1024 end
function pread(h, count, offset)
    if count == 4096 then return pages[offset] or zeroes end
    local parts = {}
    for i = 0, count - 1, 4096 do parts[#parts + 1] = pages[offset + i] or zeroes end
    return table.concat(parts)
end
function pwrite(h, buf, offset)
    for i = 1, #buf, 4096 do pages[offset + i - 1] = buf:sub(i, i + 4095) end
end
"""

TCL = """\
set zeroes [binary format x4096]
proc plugin_open {readonly} { return 1 }
proc get_size {h} { return [expr {64 * 1024 * 1024}] }
proc pread {h count offset} {
    global pages zeroes
    set data {}
    for {set at $offset} {$at < $offset + $count} {incr at 4096} {
        if {[info exists pages($at)]} { append data $pages($at) } { append data $zeroes }
    }
    return $data
}
proc pwrite {h buf offset} {
    global pages
    for {set i 0} {$i < [string length $buf]} {incr i 4096} {
        set pages([expr {$offset + $i}]) [string range $buf $i [expr {$i + 4095}]]
    }
}
"""

SCRIPTS = {"perl": PERL, "ruby": RUBY, "lua": LUA, "tcl": TCL}

SERVERS = {
    "nbdfork": [sys.executable, "-m", "nbdfork", "-f", "-n"],
    "nbdkit": ["nbdkit", "-f", "-n"],
}
LOADS = [(mode, depth) for mode in ("randread", "randwrite") for depth in (1, 32)]
SECONDS = 2


def measure(server: list[str], script: Path, mode: str, depth: int) -> float:
    """Return operations a second, 0 if the server crashes; the script's name says the language."""
    socket = script.parent / "socket"
    socket.unlink(missing_ok=True)
    command = [*server, "-U", str(socket), script.stem, str(script)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.01)
        uri = f"nbd+unix:///?socket={socket}"
        job = ["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--rw={mode}"]
        job += [f"--iodepth={depth}", "--bs=4k", "--size=64m", "--time_based"]
        job += [f"--runtime={SECONDS}", "--output-format=json"]
        done = subprocess.run(job, check=False, capture_output=True, text=True)
        if done.returncode:
            return 0.0
        found = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        return float(found["read" if mode == "randread" else "write"]["iops"])
    finally:
        process.terminate()
        process.wait()


def compare(script: Path, rounds: int) -> None:
    """Measure one language, and print the medians."""
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for mode, depth in LOADS:
            for server, command in SERVERS.items():
                found[server, mode, depth].append(measure(command, script, mode, depth))
    for mode, depth in LOADS:
        numbers = [statistics.median(found[server, mode, depth]) for server in SERVERS]
        shown = "  ".join(f"{s} {n:8.0f}" for s, n in zip(SERVERS, numbers, strict=True))
        ratio = f"ratio {numbers[0] / numbers[1]:.2f}" if numbers[1] else "nbdkit crashes"
        print(f"{script.stem:5} {mode:9} QD{depth:<2}  {shown}  {ratio}")


def main() -> None:
    """Measure the languages that are asked for, or all."""
    words = sys.argv[1:]
    rounds = int(words.pop(0)) if words and words[0].isdigit() else 3
    print(f"{os.cpu_count()} processors, {rounds} rounds, operations a second (median)")
    with tempfile.TemporaryDirectory() as name:
        for language in words or SCRIPTS:
            script = Path(name, f"{language}.script")
            script.write_text(SCRIPTS[language])
            compare(script, rounds)


main()
