"""Structured replies and block status, as libnbd, qemu and nbdinfo see them."""

import errno
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Server, need, output
from tests.support.libnbd import connected, fails, libnbd
from tests.support.paths import ROOT, SAMPLES
from tests.support.raw import reason

MIB = 1 << 20

Status = list[tuple[int, int]]
"""Lengths and types of extents, in their order."""


def status(client: Any, count: int, offset: int = 0, flags: int = 0) -> dict[str, Status]:
    """Return what one BLOCK_STATUS says, by context."""
    found: dict[str, Status] = {}

    def note(context: str, start: int, entries: list[int], error: Any) -> int:
        assert start == offset
        found[context] = list(zip(entries[::2], entries[1::2], strict=True))
        return 0

    client.block_status(count, offset, note, flags)
    return found


@contextmanager
def asking(uri: str, *contexts: str) -> Iterator[Any]:
    """Connect to *uri*, with *contexts* selected."""
    handle = libnbd().NBD()
    for context in contexts:
        handle.add_meta_context(context)
    handle.connect_uri(uri)
    yield handle
    handle.shutdown()


def chunks(client: Any, count: int, offset: int, flags: int = 0) -> tuple[bytes, list[Any]]:
    """Return what is read, and (offset, length, is a hole) of each chunk it came in."""
    found = []
    hole = libnbd().READ_HOLE

    def note(data: bytes, start: int, kind: int, error: Any) -> int:
        found.append((start, len(data), kind == hole))
        return 0

    return bytes(client.pread_structured(count, offset, note, flags)), found


def sparse_file(path: Path, seed: int) -> Path:
    """Return a file of 8 MiB with data at random places, in whole pages."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        for _ in range(chance.randrange(1, 40)):
            file.seek(chance.randrange(2048) * 4096)
            file.write(chance.randbytes(4096 * chance.randrange(1, 8))[: 8 * MIB - file.tell()])
        os.fsync(file.fileno())
    return path


def test_contexts_of_a_plugin() -> None:
    with Server("-n", SAMPLES / "sparse.py") as server:
        contexts = ("base:allocation", "x-test:age", "x-none:such")
        with asking(server.uri, *contexts) as client:
            assert client.can_meta_context("x-test:age")
            assert not client.can_meta_context("x-none:such")
            found = status(client, MIB)
            assert found["x-test:age"] == [(MIB // 2, 7), (MIB // 2, 8)]
            assert found["base:allocation"][:2] == [(4096, 0), (61440, 3)]
            one = status(client, 4096, 2048, libnbd().CMD_FLAG_REQ_ONE)
            assert one == {"base:allocation": [(2048, 0)], "x-test:age": [(4096, 7)]}
        info = json.loads(output("nbdinfo", "--json", server.uri))
        assert set(info["exports"][0]["contexts"]) >= {"base:allocation", "x-test:color"}


def test_holes_are_not_sent() -> None:
    with Server("-n", SAMPLES / "sparse.py") as server, connected(server.uri) as client:
        data, parts = chunks(client, 128 * 1024, 0)
        assert data == (b"A" * 4096).ljust(65536, b"\0") + (b"B" * 4096).ljust(65536, b"\0")
        assert parts == [
            (0, 4096, False),
            (4096, 61440, True),
            (65536, 4096, False),
            (69632, 61440, True),
        ]
        again, parts = chunks(client, 128 * 1024, 0, libnbd().CMD_FLAG_DF)
        assert (again, parts) == (data, [(0, 128 * 1024, False)])
        with fails("EIO"):
            client.pread(512, 0xF0000)


@pytest.mark.parametrize("seed", range(4))
def test_a_sparse_file_reads_the_same_however_it_comes(tmp_path: Path, seed: int) -> None:
    need("qemu-img", "nbdcopy", "nbdkit")
    disk = sparse_file(tmp_path / "disk", seed)
    with Server("-n", "file", disk) as server:
        output("nbdcopy", server.uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == disk.read_bytes()
        output("qemu-img", "compare", "-f", "raw", "-F", "raw", disk, server.uri)
        with connected(server.uri) as client:
            chance = random.Random(seed)
            content = disk.read_bytes()
            for _ in range(50):
                count = chance.randrange(1, MIB)
                offset = chance.randrange(8 * MIB - count)
                data, parts = chunks(client, count, offset)
                assert data == content[offset : offset + count]
                assert sum(length for _, length, _ in parts) == count


@pytest.mark.parametrize(
    "arguments",
    [
        ("file", "DISK"),
        ("--filter=offset", "file", "DISK", "offset=1M", "range=5M"),
        ("--filter=truncate", "file", "DISK", "truncate=10M"),
        ("--filter=cow", "file", "DISK"),
        ("split", "DISK", "DISK"),
        ("memory", "4M"),
        ("null", "4M"),
        ("pattern", "4M"),
        ("full", "4M"),
    ],
    ids=" ".join,
)
def test_block_status_is_that_of_nbdkit(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    need("nbdkit", "nbdinfo")
    disk = sparse_file(tmp_path / "disk", 7)
    words = [str(disk) if word == "DISK" else word for word in arguments]
    with Server("-n", *words) as server:
        ours = json.loads(output("nbdinfo", "--json", "--map", server.uri))
    theirs = ["size=4M" if word == "4M" else word for word in words]
    command = f'nbdinfo --json --map "$uri" > {tmp_path}/map'
    output("nbdkit", "-U", "-", *theirs, "--run", command)
    assert blocks(ours) == blocks(json.loads((tmp_path / "map").read_text()))


def blocks(extents: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return start and type of extents, those of one type that follow each other joined."""
    found: list[tuple[int, int]] = []
    for extent in extents:
        if not found or found[-1][1] != extent["type"]:
            found.append((extent["offset"], extent["type"]))
    return found


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("pread-error=ENOSPC",), errno.ENOSPC, "No space left on device"),
        (("short=1",), errno.EIO, "the plugin returned 511 bytes for 512"),
    ],
)
def test_an_error_comes_with_its_reason(arguments: tuple[str, ...], error: int, text: str) -> None:
    with Server("-n", SAMPLES / "failing.py", *arguments) as server:
        assert reason(server) == (error, text)


def test_a_long_reason_is_cut_between_characters() -> None:
    """Else qemu would drop the connection of a chunk longer than 1000 bytes."""
    with Server("-n", SAMPLES / "failing.py", "pread-error=" + "\u20ac" * 500) as server:
        with pytest.raises(AssertionError, match="Input/output error"):
            output("qemu-io", "-f", "raw", "-r", "-c", "read 0 512", server.uri)
        with connected(server.uri) as client, fails("EIO"):
            client.pread(512, 0)


def newer_qemu(tool: str) -> str:
    """Return the path of *tool* of a qemu that knows extended headers (8.2)."""
    path = ROOT / ".clients/usr/bin" / tool
    if not path.exists():
        if os.environ.get("NBDFORK_CI"):
            pytest.fail(f"not there: {path}; see contrib/bootstrap")
        pytest.skip("no newer qemu: `sh contrib/bootstrap clients` fetches it")
    return str(path)


def test_qemu_with_extended_headers(tmp_path: Path) -> None:
    qemu_img, qemu_io = newer_qemu("qemu-img"), newer_qemu("qemu-io")
    disk = sparse_file(tmp_path / "disk", 11)
    with Server("-n", "-v", "file", disk) as server:
        output(qemu_img, "compare", "-f", "raw", "-F", "raw", disk, server.uri)
        ours = output(qemu_img, "map", "-f", "raw", "--output=json", server.uri)
        theirs = output(qemu_img, "map", "-f", "raw", "--output=json", disk)
        assert extents_of(ours) == extents_of(theirs)
        output(qemu_img, "convert", "-f", "raw", "-O", "raw", server.uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == disk.read_bytes()
        assert "extended headers" in server.log
    with Server("-n", "memory", "16G") as server:
        commands = ("write -P 1 0 1M", "write -n -z 0 12G", "read -P 0 0 1M", "flush")
        shown = output(
            qemu_io, "-f", "raw", *[word for c in commands for word in ("-c", c)], server.uri
        )
        assert "failed" not in shown


def extents_of(text: str) -> list[tuple[int, int, bool]]:
    return [(one["start"], one["length"], one["zero"]) for one in json.loads(text)]
