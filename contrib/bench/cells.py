"""The table of what is measured: each cell a disk, a transport, a load, and what is hoped for.

The whole product of patterns, transports, disks and clients would take hours; `core` marks what
a run measures of a group unless it is told to take all.  The script's RAM disk has one client,
because two would share an interpreter in any server; the computed disk shows what two clients get.

The usual run has the groups that show the server.  The others are run by their names: those that
show one plugin beside nbdkit's, and disks over TCP that a file over TCP stands for.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from contrib.bench import far
from contrib.bench.lean import Lean
from contrib.bench.loads import Copy, Fio, Load
from contrib.bench.plugins import C_PLUGINS, COMPRESSORS, LANGUAGES, READ_ONLY
from contrib.bench.probes import (
    Connects,
    FirstClient,
    Map,
    MemoryOfBusyClient,
    MemoryOfIdleClient,
    MemoryOfSpareWorker,
    Startup,
)

BEST_PEER = "best peer"
LIMIT = "limit"
ABSOLUTE = ""

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """What nbdfork should reach: *factor* times what *against* has, or *factor* itself.

    *against* is a column, as `LIMIT` is, or `BEST_PEER` or `ABSOLUTE`.  It is a lower bound, or an
    upper one where less is better.
    """

    against: str
    factor: float


@dataclass(frozen=True)
class Cell:
    """One row: what it is called, what is served how, what is done to it, and the targets."""

    group: str
    name: str
    disk: str
    transport: str
    load: Load
    targets: tuple[Target, ...] = ()
    core: bool = True

    @property
    def full_name(self) -> str:
        return f"{self.group}: {self.name}"

    @property
    def has_limit(self) -> bool:
        return any(target.against == LIMIT for target in self.targets)


@dataclass(frozen=True)
class Group:
    """What cells of one kind have in common: a heading, and whether the usual run has them."""

    title: str
    usual: bool = True


GROUPS = {
    "lean-unix": Group("A client that costs next to nothing, Unix domain socket"),
    "lean-tcp": Group("A client that costs next to nothing, TCP"),
    "file-unix": Group("File in the page cache, Unix domain socket"),
    "file-tcp": Group("File in the page cache, TCP"),
    "ram-unix": Group("RAM disk, Unix domain socket"),
    "ram-tcp": Group("RAM disk, TCP", usual=False),
    "script-unix": Group("RAM disk as a Python script, Unix domain socket"),
    "script-tcp": Group("RAM disk as a Python script, TCP", usual=False),
    "computed": Group("Computed by a Python script (200 rounds of SHA-256 each 4 KiB)"),
    "copy": Group("nbdcopy of the whole file"),
    "status": Group("Block status of a sparse image of 1 TiB"),
    "connect": Group("Connect, read 4 KiB, close"),
    "memory": Group("Memory"),
    "start": Group("From exec until the first client is greeted"),
    "sandbox": Group("A file, with workers in a sandbox and without", usual=False),
    "c-plugins": Group("nbdkit's own plugins, written in C", usual=False),
    "scripts": Group("RAM disk as a script in other languages", usual=False),
    "sh": Group("A shell script that runs dd", usual=False),
    "curl": Group("A file on an nginx of the same machine", usual=False),
    "far": Group("Disks of NBD, SSH, web and S3 servers, near and 10 ms away", usual=False),
    "compressed": Group("Compressed disks, unpacked by a filter", usual=False),
}
"""The groups of cells, in the order of the report."""

PATTERNS = (
    ("randread", 4 * KIB, 1),
    ("randwrite", 4 * KIB, 1),
    ("randread", 4 * KIB, 32),
    ("randwrite", 4 * KIB, 32),
    ("randread", 64 * KIB, 8),
    ("randwrite", 64 * KIB, 8),
    ("read", 256 * KIB, 4),
    ("write", 256 * KIB, 4),
    ("read", MIB, 4),
    ("write", MIB, 4),
)
"""fio's rw=, the block size in bytes, and the requests in flight."""

CROWD = 16
"""Clients of the cells that show many; of these only the heaviest pattern is measured."""

WAYS = {
    "randread": "random read",
    "randwrite": "random write",
    "read": "sequential read",
    "write": "sequential write",
}

SMALL = 4 * KIB


def _is_core(disk: str, transport: str, load: Fio) -> bool:
    small_and_deep = load.block == SMALL and load.depth > 1
    if disk == "file" and transport == "unix" and load.clients > 1:
        return small_and_deep and load.clients == CROWD
    if load.clients > 1:
        return False
    one_by_one = (load.block, load.rw, load.depth) == (SMALL, "randread", 1)
    large = (load.block, load.rw) == (256 * KIB, "read")
    return small_and_deep or large or (one_by_one and disk != "ram")


def _targets(load: Fio) -> tuple[Target, ...]:
    return (Target(BEST_PEER, 1.5 if load.block == SMALL else 1.2),)


def _fio_cells() -> Iterator[Cell]:
    for disk in ("file", "ram", "script"):
        for transport in ("unix", "tcp"):
            for clients in (1, 2, CROWD):
                for rw, block, depth in PATTERNS:
                    load = Fio(rw, block, depth, clients)
                    if disk == "script" and clients > 1:
                        continue
                    if clients == CROWD and (block, depth) != (SMALL, 32):
                        continue
                    yield Cell(
                        f"{disk}-{transport}", _name(load), disk, transport, load,
                        _targets(load), _is_core(disk, transport, load),
                    )  # fmt: skip


LEAN_LOADS: tuple[tuple[Lean, float, bool], ...] = (
    (Lean("read", SMALL, 32), 1.6, True),
    (Lean("write", SMALL, 32), 1.4, True),
    (Lean("read", SMALL, 32, apart=True), 1.6, False),
    (Lean("write", SMALL, 32, apart=True), 1.4, False),
    (Lean("read", SMALL, 1), 1.1, True),
    (Lean("write", SMALL, 1), 1.1, True),
    (Lean("read", SMALL, 1, clients=CROWD), 1.1, False),
    (Lean("read", SMALL, 32, clients=2), 1.6, False),
    (Lean("write", SMALL, 32, clients=2), 1.4, False),
    (Lean("read", 64 * KIB, 8), 1.2, True),
    (Lean("write", 64 * KIB, 8), 1.2, False),
    (Lean("read", 256 * KIB, 4), 1.4, True),
    (Lean("write", 256 * KIB, 4), 1.5, True),
    (Lean("read", MIB, 4), 1.4, False),
    (Lean("write", MIB, 4), 1.5, False),
)
"""The lean client's loads; how many times the best peer is wanted; whether that goes for TCP, too.
"""

OF_THE_LIMIT = 0.8
"""So much of the limit is wanted for small requests of one client that come together."""


def _lean_cells() -> Iterator[Cell]:
    for transport in ("unix", "tcp"):
        for load, factor, everywhere in LEAN_LOADS:
            targets = [Target(BEST_PEER, factor)] if transport == "unix" or everywhere else []
            deep = load.block == SMALL and load.depth > 1
            if transport == "unix" and deep and load.clients == 1 and not load.apart:
                targets.append(Target(LIMIT, OF_THE_LIMIT))
            name = _name(load) + (", one by one" if load.apart else "")
            core = transport == "unix" or everywhere
            yield Cell(f"lean-{transport}", name, "file", transport, load, tuple(targets), core)


def _name(load: Fio | Lean) -> str:
    size = f"{load.block // MIB} MiB" if load.block >= MIB else f"{load.block // KIB} KiB"
    people = f", {load.clients} clients" if load.clients > 1 else ""
    way = WAYS[load.rw] if isinstance(load, Fio) else load.way
    return f"{size} {way}, QD{load.depth}{people}"


def _more_cells() -> Iterator[Cell]:
    better, much_better = (Target(BEST_PEER, 1.2),), (Target(BEST_PEER, 1.5),)
    for clients in (1, 2):
        load = Fio("randread", SMALL, 4, clients)
        yield Cell("computed", _name(load), "computed", "unix", load, much_better)
    yield Cell("copy", "to null:", "file", "unix", Copy(), better)
    yield Cell("copy", "onto itself", "file", "unix", Copy(within=True), better)
    yield Cell("status", "nbdinfo --map", "sparse", "unix", Map())
    as_good = (Target("nbd-server", 1.0),)
    for clients, people in ((1, "1 client"), (8, "8 clients at once")):
        for transport, core in (("unix", True), ("tcp", False)):
            name = f"{people}, {'TCP' if transport == 'tcp' else 'Unix domain socket'}"
            yield Cell("connect", name, "file", transport, Connects(clients), as_good, core)
    for kind, word in (("private", "private (USS)"), ("proportional", "proportional (PSS)")):
        idle, busy = MemoryOfIdleClient(kind), MemoryOfBusyClient(kind)
        yield Cell("memory", f"{word} per idle client", "file", "unix", idle)
        name = f"{word} per busy client"
        yield Cell("memory", name, "file", "unix", busy, core=kind == "private")
    small = (Target(ABSOLUTE, 1.0),)
    spare = MemoryOfSpareWorker()
    yield Cell("memory", "private (USS) per spare worker", "file", "unix", spare, small)
    quick = (Target("bare python", 2.5),)
    yield Cell("start", "ready", "file", "unix", Startup(), quick)


def _named(*loads: Fio) -> dict[str, Load]:
    return {_name(load): load for load in loads}


_SMALL_LOADS = [Fio(rw, SMALL, depth) for rw in ("randread", "randwrite") for depth in (1, 32)]
_LARGE_LOADS = [Fio(rw, 256 * KIB, 8) for rw in ("read", "write")]
_READ_BY_TWO = Fio("randread", SMALL, 1, clients=2)

PLUGIN_LOADS: dict[str, tuple[Iterable[str], dict[str, Load]]] = {
    "c-plugins": (C_PLUGINS, _named(*_SMALL_LOADS, *_LARGE_LOADS)),
    "scripts": (LANGUAGES, _named(*_SMALL_LOADS)),
    "sh": (
        ["sh"],
        _named(*(Fio("randread", SMALL, depth) for depth in (1, 8)), _READ_BY_TWO)
        | _named(*(Fio(rw, MIB, 1) for rw in ("read", "write"))),
    ),
    "curl": (["http", "https"], _named(*(Fio("randread", SMALL, depth) for depth in (1, 16)))),
    "far": (
        far.DISKS,
        {"nbdcopy to null:": Copy()}
        | _named(*(Fio("randread", SMALL, depth) for depth in (1, 16)))
        | _named(*(Fio("randread", 256 * KIB, depth) for depth in (1, 16))),
    ),
    "compressed": (
        COMPRESSORS,
        {"the first client": FirstClient(), "nbdcopy to null:": Copy()}
        | _named(Fio("randread", 64 * KIB, 1)),
    ),
}
"""The disks and the loads of the groups that show plugins: nbdfork's beside nbdkit's."""


def _plugin_cells() -> Iterator[Cell]:
    for group, (disks, loads) in PLUGIN_LOADS.items():
        for disk in disks:
            for name, load in loads.items():
                if disk == READ_ONLY and isinstance(load, Fio) and "write" in load.rw:
                    continue
                full = name if disk == group else f"{disk}, {name}"
                # A copy has many requests under way, which hide what is far.
                factor = 1.5 if disk.endswith(" away") and isinstance(load, Copy) else 1.0
                yield Cell(group, full, disk, "unix", load, (Target(BEST_PEER, factor),))


def _sandbox_cells() -> Iterator[Cell]:
    """What the walls cost: when a client comes, and for small requests."""
    for clients, people in ((1, "1 client"), (8, "8 clients at once")):
        yield Cell("sandbox", f"connect, {people}", "walled", "unix", Connects(clients))
    for load in _SMALL_LOADS:
        yield Cell("sandbox", _name(load), "walled", "unix", load)


CELLS = (*_lean_cells(), *_fio_cells(), *_more_cells(), *_plugin_cells(), *_sandbox_cells())
