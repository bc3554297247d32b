"""The command: which cells, which servers, how long; then the rounds, and the report.

    python contrib/bench [--quick] [--group NAME,...] [--cells PATTERN] [--servers NAME,...]
        [--chroot DIRECTORY] [--output DIRECTORY]

Without `--output` the report goes to standard output.  A usual run takes under 20 minutes, a group
of one plugin's cells at most 5, that of far ends 20.  It needs fio with its nbd engine, nbdcopy and
nbdinfo; of the servers, those that are installed are measured.
"""

import argparse
import contextlib
import datetime
import fnmatch
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrib.bench import chart, machine, report
from contrib.bench.cells import CELLS, GROUPS, Cell
from contrib.bench.disks import Disks
from contrib.bench.errors import BenchError
from contrib.bench.materials import MIB
from contrib.bench.report import Row
from contrib.bench.rounds import Column, measure
from contrib.bench.servers import LIMIT_LOOP, SERVERS, Server, peers_in

TOOLS = ("fio", "nbdcopy", "nbdinfo")


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    cells: Sequence[Cell]
    servers: Sequence[Server]
    rounds: int
    seconds: float
    size: int
    directory: str | None
    output: Path | None


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    """Return the settings; exits with a message if they make no sense."""
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure nbdfork beside other NBD servers."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="2 short rounds: a rough picture in a few minutes")
    add("--all", action="store_true", help="all cells; the usual run leaves out many of them")
    add("--group", metavar="NAME,...", help=f"only these groups of cells: {', '.join(GROUPS)}")
    add("--cells", metavar="PATTERN", help="the cells of which the name matches, as *tcp*QD32*")
    add("--list", action="store_true", help="print the names of the cells")
    add("--servers", metavar="NAME,...", help=", ".join(server.name for server in SERVERS))
    add("--rounds", type=int, metavar="N", help="turns of each server in each cell (5)")
    add("--seconds", type=float, metavar="S", help="length of a turn (1.25)")
    add("--size", type=int, default=512, metavar="MIB", help="size of the file (512)")
    add("--directory", help="where the served files are made (a temporary directory)")
    add("--chroot", type=Path, metavar="DIRECTORY", help="measure the servers of this system, too")
    add("--output", type=Path, metavar="DIRECTORY", help="write results.md, .json and .svg there")
    options = parser.parse_args(arguments)
    cells = _cells(parser, options.group, options.cells, options.all)
    if options.list:
        print("\n".join(cell.full_name for cell in cells))
        sys.exit()
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    rounds, seconds = (2, 0.5) if options.quick else (5, 1.25)
    rounds = rounds if options.rounds is None else options.rounds
    seconds = seconds if options.seconds is None else options.seconds
    if rounds < 1 or seconds <= 0 or options.size < 1:
        parser.error("--rounds, --seconds and --size must be positive")
    servers = _servers(parser, options.servers, options.chroot)
    size = options.size * MIB
    return Settings(cells, servers, rounds, seconds, size, options.directory, options.output)


def _cells(
    parser: argparse.ArgumentParser, groups: str | None, pattern: str | None, everything: bool
) -> list[Cell]:
    """Return the cells that are asked for: of some groups, matching a pattern, or *everything*."""
    chosen = [name.strip() for name in groups.split(",")] if groups else list(GROUPS)
    for name in chosen:
        if name not in GROUPS:
            parser.error(f"{name}: unknown group; there are {', '.join(GROUPS)}")
    if not (groups or pattern or everything):
        chosen = [name for name in chosen if GROUPS[name].usual]
    cells = [cell for cell in CELLS if cell.group in chosen]
    if pattern:
        cells = [cell for cell in cells if fnmatch.fnmatchcase(cell.full_name, pattern)]
    elif not everything:
        cells = [cell for cell in cells if cell.core]
    if not cells:
        parser.error(f"no cell matches {pattern}; --list shows their names")
    return cells


def _servers(parser: argparse.ArgumentParser, names: str | None, root: Path | None) -> list[Server]:
    """Return the servers that are named, or those that are installed, here and in *root*."""
    known = [*SERVERS, *peers_in(root.resolve())] if root else list(SERVERS)
    if root and not any(server.is_installed() for server in known[len(SERVERS) :]):
        parser.error(f"--chroot: there is no NBD server in {root}")
    if names is None:
        return [server for server in known if server.is_installed()]
    by_name = {server.name: server for server in known}
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in by_name:
            parser.error(f"{name}: unknown server; there are {', '.join(by_name)}")
        if not by_name[name].is_installed():
            parser.error(f"{name}: not installed")
    return [server for server in known if server.name in chosen]


def run(settings: Settings) -> tuple[dict[str, str], list[Row]]:
    """Measure all cells, telling on standard error how far it has come."""
    begun = time.monotonic()
    peers = frozenset(server.name for server in settings.servers if server.peer)
    rows = []
    with tempfile.TemporaryDirectory(prefix="nbdfork-bench", dir=settings.directory) as name:
        directory = Path(name)
        facts = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **machine.describe(directory, settings.servers),
            "rounds": f"{settings.rounds} of {settings.seconds:g} s",
            "file": f"{settings.size // MIB} MiB, no holes, in the page cache",
            "clients": "a process and a connection each",
        }
        with contextlib.closing(Disks(directory, settings.size)) as disks:
            for number, cell in enumerate(settings.cells, 1):
                minutes = (time.monotonic() - begun) / 60
                progress = f"[{number}/{len(settings.cells)}, {minutes:.1f} min]"
                print(f"{progress} {cell.full_name}", file=sys.stderr)
                rows.append(Row(cell, _columns(settings, cell, disks), peers))
    facts["duration"] = f"{(time.monotonic() - begun) / 60:.1f} minutes"
    return facts, rows


def _columns(settings: Settings, cell: Cell, disks: Disks) -> dict[str, Column]:
    """Measure a cell on all servers that have its disk."""
    try:
        disk = disks.get(cell.disk)
    except BenchError as error:
        return {server.name: Column(error=str(error)) for server in settings.servers}
    servers = [server for server in settings.servers if disk.kind in server.recipes]
    if cell.has_limit:
        servers.append(LIMIT_LOOP)
    return measure(cell, disk, servers, settings.rounds, settings.seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, and return the exit status: 1 if a server failed anywhere."""
    settings = parse_arguments(arguments)
    # A signal must leave the `with` blocks, or the servers would go on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    facts, rows = run(settings)
    text = report.markdown(facts, rows)
    if settings.output is None:
        print(text, end="")
    else:
        settings.output.mkdir(parents=True, exist_ok=True)
        (settings.output / "results.md").write_text(text)
        (settings.output / "results.json").write_text(report.as_json(facts, rows))
        title = f"nbdfork beside other NBD servers, {facts['date']}"
        (settings.output / "results.svg").write_text(chart.svg(title, rows))
    return int(any(column.error for row in rows for column in row.columns.values()))
