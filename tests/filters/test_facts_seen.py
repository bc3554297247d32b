"""What clients see of a disk through filters: as of a disk with these facts, and as of nbdkit."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import facts
from tests.support.facts import EVERYTHING, STATES, name_of
from tests.support.far import far_nbdkit
from tests.support.harness import SECONDS, Server, receive
from tests.support.kinds import KINDS, All, Kind, expected, ids
from tests.support.libnbd import libnbd
from tests.support.paths import SCRIPTS

every_kind = pytest.mark.parametrize("kind", KINDS, ids=ids)

REFUSED = ({"refused": True}, None)

FLAGS = [
    *("is_read_only", "can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero"),
    *("can_cache", "can_multi_conn", "is_rotational", "get_size"),
]


def seen(path: Path, name: str) -> dict[str, Any]:
    """Return what libnbd finds out of the export *name*, or the name of its error."""
    nbd = libnbd()
    handle = nbd.NBD()
    handle.set_export_name(name)
    handle.set_full_info(True)
    for context in ("base:allocation", "x-test:age", "x-test:color"):
        handle.add_meta_context(context)
    try:
        handle.connect_unix(str(path))
    except nbd.Error:
        return {"refused": True}
    found = {flag: getattr(handle, flag)() for flag in FLAGS}
    found["block_size"] = [handle.get_block_size(kind) for kind in range(3)]
    try:
        found["description"] = handle.get_export_description()
    except nbd.Error:
        found["description"] = ""
    for context in ("x-test:age", "x-test:color"):
        found[context] = handle.can_meta_context(context)
    handle.shutdown()
    return found


def raw_flags(path: Path, name: str) -> int | None:
    """Return the transmission flags as they are on the wire; None if the export is refused."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        receive(client, 18)
        client.sendall(struct.pack(">I", 3))  # fixed newstyle, no zeroes
        encoded = name.encode()
        client.sendall(b"IHAVEOPT" + struct.pack(">II", 1, len(encoded)) + encoded)
        if not client.recv(1, socket.MSG_PEEK):
            return None
        _, flags = struct.unpack(">QH", receive(client, 10))
        return int(flags)


def states_alone() -> Iterator[All]:
    """Yield a disk that can do everything but for one fact, of each in each state."""
    return (case for case in facts.cases() if sum(case[f] != EVERYTHING[f] for f in STATES) <= 1)


@pytest.fixture(scope="module")
def plain() -> Iterator[Callable[[All], Any]]:
    """What clients see of a disk without any filter."""
    with Server("-n", facts.__file__) as server:
        found: dict[str, Any] = {}

        def look(disk: All) -> Any:
            name = name_of(disk)
            if name not in found:
                found[name] = seen(server.socket, name), raw_flags(server.socket, name)
            return found[name]

        yield look


@every_kind
def test_clients_see_what_a_disk_with_these_facts_would_show(
    kind: Kind, plain: Callable[[All], Any]
) -> None:
    filter_word, *words = kind.arguments()
    with Server("-n", filter_word, facts.__file__, *words) as server:
        first = libnbd().NBD()
        if kind.name == "exitlast":  # as long as it is there, the server goes on
            first.set_export_name(name_of(EVERYTHING))
            first.connect_unix(str(server.socket))
        for below in states_alone():
            if kind.name in ("cow", "cache") and below["get_size"] != EVERYTHING["get_size"]:
                continue  # one overlay is for disks of one size
            name = name_of(below)
            shown = seen(server.socket, name), raw_flags(server.socket, name)
            above = expected([kind], below)
            assert shown == (REFUSED if above is None else plain(above)), below


def test_clients_see_what_is_below_several_filters(plain: Callable[[All], Any]) -> None:
    """--filter=log --filter=nozero offers no zeroing, as --filter=nozero alone does not."""
    for above, below in (("log", "nozero"), ("delay", "nozero"), ("error", "nozero")):
        with Server("-n", f"--filter={above}", f"--filter={below}", facts.__file__) as server:
            shown = seen(server.socket, name_of(EVERYTHING))
        assert shown == plain({**EVERYTHING, "can_zero": "none", "can_fast_zero": False})[0]
        assert not shown["can_zero"]


# -- beside nbdkit ----------------------------------------------------------------------------


# The same filters with the same parameters, and what is known to be different: nbdkit does not
# offer cow's zeroes; and its nozero turns down clients of a read-only disk, ours those of one that
# has no zero of its own; its fua does the same, ours has nothing to change there.
BESIDE = [
    (["log"], ()),
    (["delay", "rdelay=1ms"], ()),
    (["delay", "wdelay=1ms", "delay-fast-zero=false"], ()),
    (["error"], ()),
    (["noextents"], ()),
    (["nozero"], ()),
    (["nozero", "zeromode=emulate"], ()),
    (["nozero", "zeromode=emulate", "fastzeromode=none"], ()),
    (["nozero", "zeromode=notrim"], ("refused",)),
    (["nozero", "zeromode=plugin", "fastzeromode=slow"], ("refused",)),
    (["nozero", "zeromode=plugin", "fastzeromode=none"], ("refused",)),
    (["offset", "offset=65536"], ()),
    (["truncate", "truncate=4194304"], ()),
    (["cow"], ("can_zero", "can_fast_zero")),
    (["nofilter"], ()),
    (["nocache"], ()),
    (["nocache", "cachemode=nop"], ()),
    (["noparallel", "serialize=connections"], ()),
    (["fua"], ()),
    (["fua", "fuamode=emulate"], ()),
    (["fua", "fuamode=native"], ("refused",)),
    (["fua", "fuamode=force"], ("refused",)),
    (["fua", "fuamode=discard"], ()),
    (["exportname"], ()),
    (["multi-conn"], ()),
    (["multi-conn", "multi-conn-mode=unsafe"], ()),
    (["blocksize"], ()),
    (["blocksize-policy", "blocksize-minimum=4096"], ()),
    (["checkwrite"], ()),
    (["swab"], ()),
    (["limit", "limit=0"], ()),
    (["rate", "rate=100G"], ()),
    (["cache"], ()),
    (["cache", "cache=unsafe"], ()),
    (["cacheextents"], ()),
    (["retry"], ()),
    (["retry-request"], ()),
    (["stats", "statsfile=/dev/null"], ()),
    (["ip", "allow=all"], ()),
    (["exitwhen"], ()),
    (["protect", "protect=0-511"], ()),
    (["extentlist", "extentlist=/dev/null"], ()),
    (["ddrescue", "ddrescue-mapfile=/dev/null"], ()),
]


@pytest.mark.parametrize(("words", "different"), BESIDE, ids=lambda word: " ".join(word))
def test_clients_see_the_same_as_of_nbdkit(
    words: list[str], different: tuple[str, ...], tmp_path: Path
) -> None:
    filter_name, *arguments = words
    command = (f"--filter={filter_name}", "python", str(SCRIPTS / "facts.py"), *arguments)
    found = set()
    with Server("-n", *command) as server, far_nbdkit(tmp_path, "-n", *command) as far:
        for below in states_alone():
            if isinstance(below["can_zero"], str):
                continue  # nbdkit's plugins cannot say so
            if filter_name in ("cow", "cache") and below["get_size"] != EVERYTHING["get_size"]:
                continue
            ours, theirs = (seen(path, name_of(below)) for path in (server.socket, far.path))
            if ("refused" in ours) != ("refused" in theirs):
                found.add("refused")
                continue
            found |= {key for key, value in ours.items() if theirs[key] != value}
    assert found == set(different)
