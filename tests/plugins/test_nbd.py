"""The nbd plugin in front of real servers (qemu-nbd, nbd-server, nbdkit, ourselves), of both
styles, side by side with nbdkit's.
"""

import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    BlockSize,
    Extent,
    Support,
)
from tests.support.far import far_nbdkit
from tests.support.harness import (
    NBDFORK,
    Server,
    eventually,
    need,
    output,
    refused,
)
from tests.support.libnbd import connected
from tests.support.nbd import (
    CONTENT,
    KINDS,
    MIB,
    far_server,
    opened,
    plugin,
    way,
)

pytestmark = pytest.mark.usefixtures("needs_libnbd")


def facts(uri: str) -> dict[str, Any]:
    """Return what nbdinfo finds of an export, but for what depends on the style of a server."""
    [export] = json.loads(output("nbdinfo", "--json", uri))["exports"]
    kept = ("can_", "is_", "export-size", "block_", "description")
    return {
        key: value
        for key, value in export.items()
        if key.startswith(kept) and key not in ("can_df", "can_fast_zero", "export-size-str")
    }


# -- the same as the server, and as nbdkit -----------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_facts_and_bytes_of_a_server(kind: str, place: Path) -> None:
    need("nbdkit", "nbdinfo", "nbdcopy")
    with far_server(kind, place) as far:
        uri = far.uri.replace("///", "///default") if kind == "nbd-server" else far.uri
        theirs = facts(uri)
        with Server("-n", "nbd", *way(kind, far)) as server:
            ours = facts(server.uri)
            output("nbdcopy", server.uri, place / "ours")
            has_map = kind not in ("nbd-server", "nbdkit-old", "nbdfork-old")
            maps = [output("nbdinfo", "--map", one) for one in (uri, server.uri) if has_map]
        words = ["-U", "-", "nbd", *way(kind, far), "--run", f'nbdcopy "$uri" {place}/nbdkits']
        output("nbdkit", *words)
    # What a server does not say, nor needs to do itself, we say and do: zeroes can be written,
    # and there are sizes that all servers take.
    for key, default in {
        "block_size_minimum": 1,
        "block_size_preferred": 4096,
        "block_size_maximum": 32 * MIB,
    }.items():
        theirs.setdefault(key, default)
    theirs["can_zero"] = not theirs["is_read_only"]
    if not theirs["is_read_only"]:
        theirs["can_multi_conn"] = False  # each client has a link of its own
    if kind == "nbd-server":
        theirs["export-size"] = len(CONTENT)  # to nbdinfo, which does not open it, it says 0
    assert ours == theirs
    assert len(set(maps)) == has_map
    assert (place / "ours").read_bytes() == (place / "nbdkits").read_bytes()


# nbdkit as a server of old style is not among these: it refuses to flush.
@pytest.mark.parametrize("kind", ["qemu-nbd", "nbd-server", "nbdkit", "nbdfork", "nbdfork-old"])
def test_the_same_writes_as_through_nbdkit(kind: str, place: Path) -> None:
    need("nbdkit", "qemu-io")
    writes = ["write -P 1 0 4096", "write -P 2 512 70656", "write -z 8192 1M", "write -P 3 1M 1M"]
    words = [word for one in [*writes, "flush"] for word in ("-c", one)]
    with far_server(kind, place) as far:
        for command in (["nbdkit"], NBDFORK):
            (place / "disk.img").write_bytes(CONTENT)
            script = f"qemu-io -f raw $nbd {' '.join(map(repr, words))}"
            output(*command, "-U", "-", "nbd", *way(kind, far), "--run", script)
            zeroes = bytes(MIB - 8192)
            expected = b"\1" * 512 + b"\2" * 7680 + zeroes + b"\3" * MIB
            assert (place / "disk.img").read_bytes() == expected


def test_each_request_with_its_flags(place: Path) -> None:
    log = place / "log"
    words = ["--filter=log", "memory", "4M", f"logfile={log}"]
    with far_nbdkit(place, *words) as far, opened(f"socket={far.path}") as export:
        assert export.can_fua() is export.can_cache() is Support.NATIVE
        assert export.can_fast_zero()
        export.pwrite(memoryview(bytes(512)), 0, FUA)
        export.pwrite(memoryview(bytes(512)), 512, 0)
        export.flush()
        export.trim(4096, 8192, FUA)
        export.zero(4096, 16384, MAY_TRIM)
        export.zero(4096, 16384, FAST_ZERO | FUA)
        export.cache(4096, 0)
        export.extents(MIB, 0, REQ_ONE)
    requests = re.findall(r"connection=\d+ (\w+) id=\d+ (.*)\.\.\.", log.read_text())
    assert [f"{name} {rest}".strip() for name, rest in requests] == [
        "Write offset=0x0 count=0x200 fua=1",
        "Write offset=0x200 count=0x200 fua=0",
        "Flush",
        "Trim offset=0x2000 count=0x1000 fua=1",
        "Zero offset=0x4000 count=0x1000 trim=1 fua=0 fast=0",
        "Zero offset=0x4000 count=0x1000 trim=0 fua=1 fast=1",
        "Cache offset=0x0 count=0x1000",
        "Extents offset=0x0 count=0x100000 req_one=1",
    ]


def test_extents(place: Path) -> None:
    with far_server("qcow2", place) as far, opened(f"socket={far.path}") as export:
        hole = HOLE | ZERO
        assert list(export.extents(4 * MIB, 0, 0)) == [
            Extent(0, MIB, hole),
            Extent(MIB, MIB, 0),
            Extent(2 * MIB, 2 * MIB, hole),
        ]
        assert list(export.extents(MIB, MIB + 512, REQ_ONE)) == [Extent(MIB + 512, MIB - 512, 0)]


def test_errors_keep_their_numbers(place: Path) -> None:
    for name in ("EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC"):
        words = ["--filter=error", "memory", "1M", f"error-pread={name}", "error-pread-rate=100%"]
        with far_nbdkit(place, *words) as far, opened(f"socket={far.path}") as export:
            with refused(getattr(errno, name), f"{far.path}: the server says: "):
                export.pread(512, 0)
            export.pwrite(memoryview(b"good"), 0, 0)


def test_block_sizes(place: Path) -> None:
    policy = ["blocksize-minimum=4k", "blocksize-preferred=64k", "blocksize-maximum=128k"]
    words = ["--filter=blocksize-policy", "memory", "4M", *policy, "blocksize-error-policy=error"]
    with far_nbdkit(place, *words) as far, opened(f"socket={far.path}") as export:
        assert export.block_size() == BlockSize(4096, 64 * 1024, 128 * 1024)
        data = os.urandom(MIB)
        export.pwrite(memoryview(data), 0, 0)  # in parts
        assert bytes(export.pread(MIB, 0)) == data


def test_ranges_too_long_for_a_request(place: Path) -> None:
    with far_nbdkit(place, "memory", "6G") as far, opened(f"socket={far.path}") as export:
        export.pwrite(memoryview(b"data"), 5 << 30, 0)
        export.trim(6 << 30, 0, 0)
        assert bytes(export.pread(4, 5 << 30)) == bytes(4)
        export.zero(6 << 30, 0, MAY_TRIM)
        export.cache(6 << 30, 0)
        with refused(errno.EOPNOTSUPP, "too much"):
            export.zero(6 << 30, 0, FAST_ZERO)
        assert next(iter(export.extents(6 << 30, 0, 0))).type == HOLE | ZERO


def test_requests_of_a_client_under_way_at_once(place: Path) -> None:
    log = place / "log"
    words = ["--filter=log", "--filter=delay", "memory", "4M", "delay-read=3", f"logfile={log}"]
    with far_nbdkit(place, *words) as far:
        with Server("-n", "nbd", f"socket={far.path}") as server:
            with connected(server.uri) as client:
                for number in range(16):
                    client.aio_pread(bytearray(4096), number * 4096, lambda error: 1)
                eventually(lambda: log.read_text().count(" Read ") == 16)
                assert "...Read" not in log.read_text()  # none of them has been answered
                while client.aio_in_flight():
                    client.poll(-1)


def test_many_threads(place: Path) -> None:
    sizes = [1, 511, 4096, 100_000, MIB]
    with far_nbdkit(place, "memory", "64M") as far, opened(f"socket={far.path}") as export:
        assert plugin(f"socket={far.path}").waits()

        def exchange(number: int) -> None:
            data = os.urandom(sizes[number % 5])
            export.pwrite(memoryview(data), number * MIB, 0)
            assert bytes(export.pread(len(data), number * MIB)) == data

        with ThreadPoolExecutor(16) as pool:
            for _ in range(4):
                list(pool.map(exchange, range(64)))
