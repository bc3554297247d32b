"""The filters that come with nbdfork: against models, through clients, and beside nbdkit."""

import errno
import logging
import os
import random
import re
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdfork.backend import load
from nbdfork.backend.backend import Backend, Layer
from nbdfork.backend.gate import Gate
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import (
    HOLE,
    REQ_ONE,
    ZERO,
    BlockSize,
    Buffer,
    ConfigError,
    Export,
    Extent,
    Filter,
    Plugin,
)
from nbdfork.plugin.descriptor import DescriptorExport
from tests.clients.test_clients import noise
from tests.support.harness import NBDFORK, Server, nbdfork, need, output
from tests.support.libnbd import connected, libnbd

KIB = 1024
MIB = 1024 * KIB
TIB = 1024 * 1024 * MIB

BLOCK = 4 * KIB
SIZE = 5 * BLOCK + 777  # so that the last block is a short one


# -- filters over a disk in this process ------------------------------------------------------


class Disk(Plugin):
    """a disk in memory that remembers what it was asked"""

    def __init__(self, content: bytes, minimum: int = 1) -> None:
        super().__init__()
        self.content = bytearray(content)
        self.minimum = minimum
        self.asked: list[str] = []

    def get_size(self) -> int:
        return len(self.content)

    def block_size(self) -> BlockSize:
        return BlockSize(self.minimum, 4096, 64 * KIB)

    def pread(self, count: int, offset: int) -> Buffer:
        self._check("pread", count, offset)
        return bytes(self.content[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._check("pwrite", len(data), offset)
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.asked.append("flush")

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._check("trim", count, offset)
        self.content[offset : offset + count] = bytes(count)

    def cache(self, count: int, offset: int) -> None:
        self._check("cache", count, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        """Tell of whole blocks, as a file system does."""
        self._check("extents", count, offset)
        for start in range(offset - offset % BLOCK, offset + count, BLOCK):
            is_zero = not any(self.content[start : start + BLOCK])
            yield Extent(start, BLOCK, HOLE | ZERO if is_zero else 0)

    def _check(self, name: str, count: int, offset: int) -> None:
        assert 0 < count <= len(self.content) - offset
        assert offset >= 0
        assert not (count | offset) % self.minimum
        self.asked.append(name)


class ZeroingDisk(Disk):
    """a disk in memory that zeroes by itself"""

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._check(f"zero flags={flags}", count, offset)
        self.content[offset : offset + count] = bytes(count)


class ReadOnlyDisk(Plugin):
    """a disk that can only be read"""

    def get_size(self) -> int:
        return SIZE

    def pread(self, count: int, offset: int) -> Buffer:
        return noise(SIZE)[offset : offset + count]


def layer(name: str) -> Layer:
    made = load.find(name, load.FILTER).plugin_class()
    assert isinstance(made, Filter)
    return Layer(name, made)


def backend(disk: Plugin, filters: str, *arguments: str, read_only: bool = False) -> Backend:
    """Put *filters*, names with a blank between, before *disk*."""
    made = Backend(
        Layer("disk", disk), [layer(name) for name in filters.split()], read_only=read_only
    )
    made.configure(arguments)
    made.get_ready()
    return made


def gate(disk: Plugin, filters: str, *arguments: str) -> Gate:
    return backend(disk, filters, *arguments).open("")


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number


# -- against a model --------------------------------------------------------------------------


OPERATIONS = ("read", "write", "zero", "zero-may-trim", "zero-fast", "trim", "cache", "extents")


@st.composite
def requests(draw: st.DrawFn, size: int) -> tuple[str, int, int, int]:
    """Draw (operation, count, offset, byte); ranges like to begin and end with a block."""
    edges = st.sampled_from(sorted({*range(0, size + 1, BLOCK), size}))
    ends = draw(st.lists(edges | st.integers(0, size), min_size=2, max_size=2, unique=True))
    start, end = sorted(ends)
    return draw(st.sampled_from(OPERATIONS)), end - start, start, draw(st.integers(0, 255))


def check_extents(gate: Gate, model: bytearray, count: int, offset: int) -> None:
    """What is said to be zeroes must be, and all of the range must be told of in the end."""
    found = gate.extents(count, offset, 0)
    assert found[0].offset == offset
    assert all(one.offset + one.length == two.offset for one, two in pairwise(found))
    assert found[-1].offset + found[-1].length == offset + count
    for start, length, kind in found:
        assert not (kind & ZERO and any(model[start : start + length]))
    [first] = gate.extents(count, offset, REQ_ONE)
    assert (first.offset, first.type) == (offset, found[0].type)
    assert 0 < first.length <= found[0].length


def carry_out(gate: Gate, model: bytearray, request: tuple[str, int, int, int]) -> None:
    """Let *gate* and *model* do the same, and compare."""
    operation, count, offset, byte = request
    part = slice(offset, offset + count)
    if operation == "read":
        assert gate.pread(count, offset) == model[part]
    elif operation == "write":
        data = bytes([byte]) * count
        gate.pwrite(memoryview(data), offset, fua=bool(byte & 1))
        model[part] = data
    elif operation == "cache":
        gate.cache(count, offset)
    elif operation == "extents":
        check_extents(gate, model, count, offset)
    elif operation == "trim":
        gate.trim(count, offset, fua=False)
        model[part] = bytes(count)  # the disks of these tests do zero what is trimmed
    else:
        may_trim, fast = operation == "zero-may-trim", operation == "zero-fast"
        if fast and not gate.can_fast_zero:
            return
        try:
            gate.zero(count, offset, may_trim, fast, fua=bool(byte & 1))
        except OSError as error:
            if not fast or error.errno != errno.EOPNOTSUPP:
                raise
        else:
            model[part] = bytes(count)


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(st.tuples(st.integers(0, 2), requests(SIZE)), max_size=30),
    on_read=st.booleans(),
    on_cache=st.booleans(),
    zeroing=st.booleans(),
)
def test_cow_is_a_disk_of_which_nothing_reaches_the_one_below(
    script: list[tuple[int, tuple[str, int, int, int]]],
    on_read: bool,
    on_cache: bool,
    zeroing: bool,
) -> None:
    content = noise(SIZE - 2 * BLOCK) + bytes(2 * BLOCK)
    disk = (ZeroingDisk if zeroing else Disk)(content)
    cow = backend(
        disk, "cow", f"cow-block-size={BLOCK}", f"cow-on-read={on_read}", f"cow-on-cache={on_cache}"
    )
    model = bytearray(content)
    clients = [cow.open("") for _ in range(3)]
    for number, request in script:
        carry_out(clients[number], model, request)
    for client in clients:
        assert client.pread(SIZE, 0) == model
        check_extents(client, model, SIZE, 0)
    assert disk.content == content
    assert {name.split()[0] for name in disk.asked} <= {"pread", "cache", "extents"}


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(requests(9 * BLOCK), max_size=25),
    offset_first=st.booleans(),
    offset=st.sampled_from([0, 1, 512, BLOCK, BLOCK + 1]),
    length=st.sampled_from([0, 1, BLOCK, 3 * BLOCK + 5]),
    rounded=st.sampled_from([512, BLOCK, 2 * BLOCK]),
    zeroing=st.booleans(),
)
def test_a_part_and_zeroes_after_it(
    script: list[tuple[str, int, int, int]],
    offset_first: bool,
    offset: int,
    length: int,
    rounded: int,
    zeroing: bool,
) -> None:
    content = noise(SIZE)
    disk = (ZeroingDisk if zeroing else Disk)(content)
    if offset_first:  # a part of a lengthened disk
        top = gate(disk, "offset truncate", f"truncate={9 * BLOCK}", f"offset={offset}")
        visible = content[offset:]
    else:  # a lengthened part of a disk
        arguments = (f"offset={offset}", f"range={length}", f"round-up={rounded}")
        top = gate(disk, "truncate offset", *arguments)
        visible = content[offset : offset + length]
    model = bytearray(visible).ljust(top.size, b"\0")
    assert top.size == (9 * BLOCK - offset if offset_first else -(-length // rounded) * rounded)
    for operation, count, start, byte in script:
        count = min(count, top.size - start)
        if count <= 0:
            continue
        if operation == "write" and byte and start + count > len(visible):
            with refused(errno.ENOSPC):
                carry_out(top, model, (operation, count, start, byte))
            continue
        carry_out(top, model, (operation, count, start, byte))
    assert not top.size or top.pread(top.size, 0) == model
    changed = model[: len(visible)]
    assert disk.content == content[:offset] + changed + content[offset + len(visible) :]


def test_a_disk_made_shorter_is_not_touched_past_its_new_end() -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "truncate", "round-down=4096")
    assert top.size == 5 * BLOCK
    top.zero(top.size, 0, may_trim=True, fast=False, fua=False)
    assert disk.content[5 * BLOCK :] == noise(SIZE)[5 * BLOCK :]
    with refused(errno.ENOSPC):
        top.pwrite(memoryview(b"x"), top.size, fua=False)


# -- disks that are picky ---------------------------------------------------------------------


def test_the_part_must_begin_with_a_block_of_the_disk() -> None:
    with refused(errno.EINVAL):
        gate(Disk(bytes(SIZE), 512), "offset", "offset=100")
    assert gate(Disk(bytes(SIZE), 512), "offset", "offset=512").size == SIZE - 512


def test_a_disk_with_an_unreachable_end_cannot_be_made_longer() -> None:
    with refused(errno.EINVAL):
        gate(Disk(bytes(SIZE), 512), "truncate", "round-up=512")
    assert gate(Disk(bytes(SIZE), 512), "truncate", "round-down=512").size % 512 == 0


def test_the_size_cannot_be_rounded_up_past_the_largest() -> None:
    with refused(errno.EFBIG):
        gate(Disk(bytes(SIZE)), "truncate", f"truncate={2**63 - 1}", "round-up=512")


def test_cow_reads_the_disk_in_blocks_it_can_be_read_in() -> None:
    disk = Disk(noise(SIZE), 512)
    top = gate(disk, "cow", "cow-block-size=128k")  # more than the disk gives at once
    top.pwrite(memoryview(bytes(512)), BLOCK, fua=False)
    expected = bytearray(noise(SIZE))
    expected[BLOCK : BLOCK + 512] = bytes(512)
    whole = SIZE - SIZE % 512
    assert top.pread(whole, 0) == expected[:whole]
    assert top.block_size == BlockSize(512, 4096, 64 * KIB)


def test_cow_blocks_cannot_be_smaller_than_those_of_the_disk() -> None:
    with refused(errno.EINVAL):
        gate(Disk(bytes(256 * KIB), 8192), "cow", "cow-block-size=4k")


def test_cow_refuses_a_second_disk() -> None:
    disk = Disk(noise(SIZE))
    cow = backend(disk, "cow")
    cow.open("")
    disk.content += b"more"
    with pytest.raises(OSError, match="one disk only"):
        cow.open("")


class Huge(ReadOnlyDisk):
    """a disk that is larger than a file can be, and has a context of its own"""

    def get_size(self) -> int:
        return 32 * TIB

    def block_size(self) -> BlockSize:
        return BlockSize(1, 4096, 2**32 - 1)

    def contexts(self) -> list[str]:
        return ["x-test:written"]


def test_cow_takes_little_memory_to_tell_of_a_huge_range() -> None:
    """Clients with extended headers may ask for all of a disk at once."""
    huge = gate(Huge(), "cow", "cow-block-size=4k")
    count = 256 * 1024 * MIB
    tracemalloc.start()
    try:
        found = huge.extents(count, 0, 0)
        huge.zero(count, 0, may_trim=True, fast=True, fua=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * MIB
    assert found[0].type == 0
    assert huge.extents(MIB, count - MIB, 0) == [Extent(count - MIB, MIB, HOLE | ZERO)]
    assert huge.extents(MIB, count, 0) == [Extent(count, MIB, 0)]


def test_cow_trims_where_no_file_can_have_data() -> None:
    huge = gate(Huge(), "cow")
    huge.trim(MIB, 20 * TIB, fua=False)
    assert huge.pread(MIB, 20 * TIB) == bytes(MIB)


def test_cow_says_which_device_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    made = layer("cow")
    over = Backend(Layer("disk", Disk(noise(MIB))), [made])
    over.configure([])
    over.get_ready()
    overlay = made.plugin.__dict__["_overlay"]
    overlay.data.close()
    overlay.data = DescriptorExport(os.open("/dev/full", os.O_RDWR), writable=True)
    for offset in (0, 10):
        with pytest.raises(OSError, match=r"the overlay: No space left.*/var/tmp") as caught:
            over.open("").pwrite(memoryview(b"x" * 65536), offset, fua=False)
        assert caught.value.errno == errno.ENOSPC
    assert over.open("").pread(MIB, 0) == noise(MIB)


def test_cow_gives_the_space_back_of_what_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/shm")  # a file system that tells at once what is allocated
    made = layer("cow")
    over = Backend(Layer("disk", Disk(noise(MIB))), [made])
    over.configure(["cow-block-size=4k"])
    over.get_ready()
    cow = over.open("")
    data = made.plugin.__dict__["_overlay"].data._fd
    cow.pwrite(memoryview(noise(MIB)), 0, fua=True)
    assert os.fstat(data).st_blocks * 512 >= MIB
    cow.trim(MIB // 2, 0, fua=False)
    cow.zero(MIB // 2, MIB // 2, may_trim=False, fast=True, fua=False)
    assert os.fstat(data).st_blocks * 512 < MIB // 8


def test_what_cow_says_of_itself_is_valid_and_true() -> None:
    assert gate(Huge(), "cow", "cow-block-size=64k").block_size.preferred == 64 * KIB
    assert gate(Huge(), "cow", "cow-block-size=64M").block_size.preferred == 4096
    assert gate(Huge(), "noextents").contexts == ("x-test:written",)
    assert gate(Huge(), "cow").contexts == ()  # the disk below knows nothing of what is written


def test_cow_makes_a_read_only_disk_writable() -> None:
    top = gate(ReadOnlyDisk(), "cow")
    assert top.can_write
    assert top.can_multi_conn
    top.pwrite(memoryview(b"new"), 5, fua=True)
    assert top.pread(10, 0) == noise(SIZE)[:5] + b"new" + noise(SIZE)[8:10]


def test_cow_of_a_server_that_is_read_only_is_so() -> None:
    top = backend(Disk(noise(SIZE)), "cow", read_only=True).open("")
    assert not top.can_write
    with refused(errno.EPERM):
        top.pwrite(memoryview(b"x"), 0, fua=False)


def test_cow_changes_nothing_if_the_disk_below_cannot_be_read() -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "cow error", "error-pread-rate=100%", "error=ENOMEM")
    with refused(errno.ENOMEM):
        top.pwrite(memoryview(b"x"), 1, fua=False)
    top.pwrite(memoryview(bytes(SIZE)), 0, fua=False)  # needs nothing from below
    assert top.pread(SIZE, 0) == bytes(SIZE)


def test_cow_tells_trimmed_blocks_from_zeroed_ones() -> None:
    top = gate(Disk(noise(SIZE)), "cow", "cow-block-size=4k")
    top.zero(BLOCK, 0, may_trim=False, fast=True, fua=False)
    top.trim(BLOCK, BLOCK, fua=False)
    top.pwrite(memoryview(bytes(1)), 2 * BLOCK, fua=False)
    kinds = [(extent.length, extent.type) for extent in top.extents(SIZE, 0, 0)]
    assert kinds == [(BLOCK, ZERO), (BLOCK, HOLE | ZERO), (SIZE - 2 * BLOCK, 0)]


@pytest.mark.parametrize(
    ("arguments", "operation"),
    [(["cow-on-read=true"], "read"), (["cow-on-cache=true"], "cache")],
)
def test_cow_keeps_what_it_is_told_to_keep(arguments: list[str], operation: str) -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "cow", "cow-block-size=4k", *arguments)
    carry_out(top, disk.content, (operation, 10, BLOCK, 0))
    disk.asked.clear()
    assert top.pread(BLOCK, BLOCK) == noise(SIZE)[BLOCK : 2 * BLOCK]
    assert disk.asked == []
    top.cache(SIZE, 0)
    assert set(disk.asked) == ({"cache"} if operation == "read" else {"pread"})


def test_cow_keeps_reads_while_a_file_exists(tmp_path: Path) -> None:
    disk = Disk(noise(SIZE))
    switch = tmp_path / "on"
    top = gate(disk, "cow", f"cow-on-read={switch}")
    for expected in (["pread"], ["pread"], []):
        disk.asked.clear()
        top.pread(10, 0)
        assert disk.asked[:1] == expected
        if switch.exists():
            continue
        top.pread(10, 0)
        assert disk.asked == ["pread", "pread"]
        switch.touch()


# -- zeroes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fast", "asked"),
    [
        (["zeromode=emulate"], False, ["pwrite"]),
        (["zeromode=notrim"], False, ["zero flags=0"]),
        (["zeromode=plugin"], False, ["zero flags=1"]),
        (["zeromode=notrim", "fastzeromode=ignore"], True, ["zero flags=0"]),
        (["zeromode=plugin", "fastzeromode=ignore"], True, ["zero flags=1"]),
    ],
)
def test_nozero_lets_through_what_it_should(
    arguments: list[str], fast: bool, asked: list[str]
) -> None:
    disk = ZeroingDisk(noise(SIZE))
    top = gate(disk, "nozero", *arguments)
    top.zero(100, 10, may_trim=True, fast=fast, fua=False)
    assert disk.asked == asked
    assert disk.content[10:110] == bytes(100)


def test_nozero_needs_a_disk_that_zeroes_if_it_is_to_do_so() -> None:
    for mode in ("notrim", "plugin"):
        with pytest.raises(OSError, match=f"zeromode={mode}.*zeromode=emulate"):
            gate(Disk(noise(SIZE)), "nozero", f"zeromode={mode}")
        assert not gate(ReadOnlyDisk(), "nozero", f"zeromode={mode}").can_write


@pytest.mark.parametrize("name", ["log", "delay", "error"])
def test_filters_that_count_zeroes_see_them_over_any_disk(name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    disk = Disk(noise(3 * MIB))
    top = gate(disk, name, *([f"logfile={log}"] if name == "log" else []))
    top.zero(2 * MIB + 1, 5, may_trim=True, fast=False, fua=True)
    assert disk.content == noise(3 * MIB)[:5] + bytes(2 * MIB + 1) + noise(3 * MIB)[2 * MIB + 6 :]
    with refused(errno.EOPNOTSUPP):
        top.zero(100, 0, may_trim=True, fast=True, fua=False)
    if name == "log":
        assert "Write" not in log.read_text()
        assert log.read_text().count(" Zero ") == 2
    assert not gate(ReadOnlyDisk(), name).can_write


# -- delay: with a clock that does not run ----------------------------------------------------


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times: list[float] = []
    monkeypatch.setattr(time, "sleep", times.append)
    return times


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["rdelay=2"], [2.0]),
        (["delay-read=100ms"], [0.1]),
        (["wdelay=0.5"], [0.5, 0.5, 0.5]),
        (["delay-write=1"], [1.0]),
        (["wdelay=1ms", "delay-zero=3"], [0.001, 3.0, 0.001]),
        (["delay-trim=7", "wdelay=0"], [7.0]),
        (["delay-extents=5"], [5.0]),
        (["delay-cache=6"], [6.0]),
        (["delay-open=8", "delay-close=9"], [8.0, 9.0]),
    ],
)
def test_delay(slept: list[float], arguments: list[str], expected: list[float]) -> None:
    top = gate(Disk(noise(SIZE)), "delay", *arguments)
    model = bytearray(noise(SIZE))
    for operation in ("read", "write", "zero", "trim", "cache"):
        carry_out(top, model, (operation, 10, 10, 1))
    top.extents(10, 0, 0)
    top.flush()
    top.close()
    assert slept == expected


@pytest.mark.parametrize("delayed", [False, True])
def test_delay_can_refuse_fast_zeroes_at_once(slept: list[float], delayed: bool) -> None:
    top = gate(ZeroingDisk(noise(SIZE)), "delay", "wdelay=1", f"delay-fast-zero={delayed}")
    assert top.can_fast_zero is not delayed  # a disk that zeroes does not say how fast
    if not delayed:
        with refused(errno.EOPNOTSUPP):
            top.zero(10, 0, may_trim=True, fast=True, fua=False)
    assert slept == []


# -- bad arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "argument", "fix"),
    [
        ("offset", "offset=-1", "512k"),
        ("offset", "range=x", "512k"),
        ("truncate", "truncate=8E", "2^63-1"),
        ("truncate", "round-up=0", "power of 2"),
        ("truncate", "round-down=1000", "power of 2"),
        ("log", "logappend=maybe", "true or false"),
        ("delay", "rdelay=1us", "100ms"),
        ("delay", "delay-open=-1", "100ms"),
        ("delay", "wdelay=31536000", "30 days"),
        ("delay", "delay-fast-zero=2", "true or false"),
        ("error", "error=EFOO", "ENOSPC"),
        ("error", "error-rate=101%", "0% to 100%"),
        ("error", "error-pread-rate=2", "0 to 1"),
        ("error", "error-zero-rate=often", "50%"),
        ("nozero", "zeromode=x", "emulate"),
        ("nozero", "fastzeromode=x", "ignore"),
        ("cow", "cow-block-size=1k", "4k to 2G"),
        ("cow", "cow-block-size=5000", "power of 2"),
        ("cow", "cow-on-read=relative", "absolute path"),
    ],
)
def test_a_bad_value_is_named_and_the_fix_told(name: str, argument: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(argument)) as caught:
        gate(Disk(b""), name, argument)
    assert fix in str(caught.value)


def test_both_names_of_one_delay() -> None:
    with pytest.raises(ConfigError, match=r"rdelay= and delay-read="):
        gate(Disk(b""), "delay", "rdelay=1", "delay-read=2")


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    done = nbdfork("-f", "--filter=log", "null", f"logfile={tmp_path}")
    assert done.returncode == 1
    assert f"log: logfile={tmp_path}: Is a directory" in done.stderr


def test_a_log_that_is_full_lets_no_request_fail(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(noise(SIZE))
    closed = []
    disk.close = lambda: closed.append(True)  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        logged = gate(disk, "log", "logfile=/dev/full")
        logged.pwrite(memoryview(b"new"), 0, fua=False)
        assert logged.pread(3, 0) == b"new"
        logged.close()
    assert closed
    assert caplog.messages == ["logfile=/dev/full: lines are missing: No space left on device"]


# -- beside nbdkit ----------------------------------------------------------------------------


SERVERS = {"nbdfork": [*NBDFORK, "-s", "-n"], "nbdkit": ["nbdkit", "-s", "--exit-with-parent"]}


@contextmanager
def captive(server: str, arguments: Sequence[str | Path]) -> Iterator[Any]:
    """Run a server for one connection of libnbd."""
    handle = libnbd().NBD()
    handle.set_strict_mode(0)
    handle.connect_command([*SERVERS[server], *map(str, arguments)])
    yield handle
    handle.shutdown()


def outcome(handle: Any, method: str, *arguments: Any) -> Any:
    """Return the result of a request, or the name of its error."""
    try:
        return getattr(handle, method)(*arguments)
    except libnbd().Error as error:
        return error.errno


def outcomes(
    server: str, arguments: Sequence[str | Path], script: Sequence[tuple[Any, ...]]
) -> list[Any]:
    with captive(server, arguments) as handle:
        return [outcome(handle, *request) for request in script]


def compare(
    tmp_path: Path, arguments: Sequence[str], script: Sequence[tuple[Any, ...]], content: bytes
) -> list[Any]:
    """Let both servers serve a file of *content*, and demand the same results and the same file."""
    need("nbdkit")
    found = {}
    for server in SERVERS:
        disk = tmp_path / server
        disk.write_bytes(content)
        found[server] = outcomes(server, [*arguments[:1], "file", disk, *arguments[1:]], script)
        found[server].append(disk.read_bytes())
    assert found["nbdfork"] == found["nbdkit"]
    return found["nbdfork"]


def random_script(size: int, seed: int, length: int = 80) -> list[tuple[Any, ...]]:
    """Return requests, some of which reach past the end."""
    draw = random.Random(seed)
    script: list[tuple[Any, ...]] = []
    for _ in range(length):
        count, offset = draw.randrange(1, 9000), draw.randrange(size)
        script.append(
            draw.choice(
                [
                    ("pread", count, offset),
                    ("pwrite", draw.randbytes(count), offset),
                    ("pwrite", bytes(count), offset),
                    ("trim", count, offset),
                    ("cache", count, offset),
                    ("flush",),
                ]
            )
        )
    return [*script, ("pread", size, 0), ("get_size",)]


@pytest.mark.parametrize("arguments", [["offset=1000", "range=50000"], ["offset=4k"], []])
def test_offset_as_nbdkit_does_it(tmp_path: Path, arguments: list[str]) -> None:
    script = [*random_script(50000, seed=1), ("zero", 5000, 300)]
    compare(tmp_path, ["--filter=offset", *arguments], script, noise(60000))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["truncate=0"],
        ["truncate=70000"],
        ["truncate=5000"],
        ["round-up=4096"],
        ["round-down=4096"],
        ["round-up=4096", "round-down=65536"],
        ["truncate=5000", "round-up=4096"],
    ],
)
def test_truncate_as_nbdkit_does_it(tmp_path: Path, arguments: list[str]) -> None:
    # It is left open how much of a failed write is done, and nbdkit does a part.
    script = [request for request in random_script(60000, seed=2) if request[0] != "pwrite"]
    script += [("pwrite", noise(1000), offset) for offset in (0, 4000, 30000, 59000)]
    script += [("pwrite", b"x", 60000), ("pwrite", bytes(2000), 59900), ("pread", 2000, 59000)]
    script += [("zero", 1000, 59500), ("zero", 10, 60001), ("trim", 1000, 59500)]
    compare(tmp_path, ["--filter=truncate", *arguments], script, noise(60000))


EVERYTHING = [
    ("pread", 512, 0),
    ("pwrite", b"data", 0),
    ("trim", 512, 0),
    ("zero", 512, 0),
    ("cache", 512, 0),
    ("flush",),
]


@pytest.mark.parametrize("name", ["EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "ESHUTDOWN"])
def test_errors_as_nbdkit_makes_them(tmp_path: Path, name: str) -> None:
    arguments = ["--filter=error", f"error={name}", "error-rate=100%"]
    found = compare(tmp_path, arguments, EVERYTHING, noise(60000))
    assert found[:-1] == [name] * 5 + [None]


@pytest.mark.parametrize("operation", ["pread", "pwrite", "trim", "zero", "cache"])
@pytest.mark.parametrize("kind", ["of its own", "with a file", "with no file", "spared"])
def test_errors_of_one_operation_as_nbdkit_makes_them(
    tmp_path: Path, operation: str, kind: str
) -> None:
    (tmp_path / "exists").touch()
    file = tmp_path / ("exists" if kind == "with a file" else "missing")
    own = [f"error-{operation}-rate=1", f"error-{operation}=ENOSPC"]
    if kind == "spared":
        own = ["error-rate=1", f"error-{operation}-rate=0%"]
    elif kind != "of its own":
        own.append(f"error-{operation}-file={file}")
    found = compare(tmp_path, ["--filter=error", *own], EVERYTHING, noise(60000))
    failed = {
        request[0]
        for request, result in zip(EVERYTHING, found, strict=False)
        if isinstance(result, str)
    }
    everything = {"pread", "pwrite", "trim", "zero", "cache"}
    expected = {
        "of its own": {operation},
        "with a file": {operation},
        "with no file": set(),
        "spared": everything - {operation},
    }
    assert failed == expected[kind]


def test_a_rate_between_is_met_about_that_often() -> None:
    top = gate(Disk(noise(SIZE)), "error", "error-pread-rate=.25", "error-extents-rate=100%")
    random.seed(1)
    failed = 0
    for _ in range(2000):
        try:
            top.pread(1, 0)
        except OSError:
            failed += 1
    assert 400 < failed < 600
    with refused(errno.EIO):
        top.extents(1, 0, 0)


FAST = 16  # LIBNBD_CMD_FLAG_FAST_ZERO


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["zeromode=none", "fastzeromode=ignore"],
        ["zeromode=emulate"],
        ["zeromode=emulate", "fastzeromode=none"],
        ["zeromode=emulate", "fastzeromode=slow"],
        ["zeromode=emulate", "fastzeromode=ignore"],
        ["zeromode=notrim"],
        ["zeromode=notrim", "fastzeromode=slow"],
        ["zeromode=plugin"],
        ["zeromode=plugin", "fastzeromode=none"],
        ["zeromode=plugin", "fastzeromode=slow"],
        ["zeromode=plugin", "fastzeromode=ignore"],
    ],
)
def test_nozero_as_nbdkit_does_it(arguments: list[str]) -> None:
    need("nbdkit")
    script: list[tuple[Any, ...]] = [
        ("can_zero",),
        ("can_fast_zero",),
        ("pwrite", noise(8192), 0),
        ("zero", 4096, 0),
        ("zero", 1000, 5000, FAST),
        ("pread", 8192, 0),
    ]
    if "fastzeromode=none" in arguments:
        del script[4]  # nbdkit would not survive it
    if not arguments or "zeromode=none" in arguments:
        del script[3:5]  # a server that offers no zeroing has nothing to answer
    command = ["--filter=nozero", "memory", "1M", *arguments]
    assert outcomes("nbdfork", command, script) == outcomes("nbdkit", command, script)


@pytest.mark.parametrize("arguments", [[], ["cow-block-size=4k"], ["cow-on-read=true"]])
def test_cow_as_nbdkit_does_it(tmp_path: Path, arguments: list[str]) -> None:
    script = random_script(600000, seed=3, length=150)
    found = compare(tmp_path, ["--filter=cow", *arguments], script, noise(600000))
    assert found[-1] == noise(600000)


def without_times(log: Path) -> list[str]:
    """Return the lines, without times and without what differs: Fork, and block sizes."""
    lines = [re.sub(r"^[-\d]+ [:.\d]+ ", "", line) for line in log.read_text().splitlines()]
    lines = [re.sub(r" (min|pref|max)size=\S+", "", line) for line in lines]
    return [line for line in lines if line != "Fork"]


def test_the_log_as_nbdkit_writes_it(tmp_path: Path) -> None:
    need("nbdkit")
    script = [*EVERYTHING, ("pwrite", b"x", 1, 1), ("zero", 10, 0, FAST | 2), ("trim", 10, 20, 1)]
    for filters in (["--filter=log"], ["--filter=log", "--filter=error"]):
        logs = []
        for server in SERVERS:
            logs.append(tmp_path / f"{server}.log")
            arguments = [*filters, "memory", "1M", f"logfile={logs[-1]}"]
            if len(filters) > 1:
                arguments += ["error=ENOSPC", "error-rate=1"]
            outcomes(server, arguments, script)
        assert without_times(logs[0]) == without_times(logs[1])


# -- through the workers ----------------------------------------------------------------------


def test_the_log_counts_the_clients_of_all_workers(tmp_path: Path) -> None:
    need("nbdinfo")
    log = tmp_path / "log"
    log.write_text("before\n")
    with Server("-n", "--filter=log", "memory", "1M", f"logfile={log}", "logappend=true") as server:
        output("nbdinfo", "--list", server.uri)
        with connected(server.uri) as one, connected(server.uri) as two:
            one.pread(10, 0)
            two.pread(20, 0)
    lines = without_times(log)
    assert lines[0] == "before"
    assert '...ListExports id=1 exports=("") return=0' in lines
    reads = [re.search(r"connection=(\d+) Read id=1.*count=(\S+)", line) for line in lines]
    found = {match[2]: match[1] for match in reads if match}
    assert found.keys() == {"0xa", "0x14"}
    assert len(set(found.values())) == 2
    ends = [re.search(r"connection=(\d+) Disconnect", line) for line in lines]
    assert set(found.values()) <= {match[1] for match in ends if match}


def test_a_log_begins_anew_and_a_name_stays_in_its_line(tmp_path: Path) -> None:
    need("nbdinfo")
    log = tmp_path / "log"
    log.write_text("before\n")
    with Server("-n", "--filter=log", "memory", "1M", f"logfile={log}") as server:
        name = "a%20%22%24b%0aReady%5c"
        output("nbdinfo", "--size", f"nbd+unix:///{name}?socket={server.socket}")
    lines = without_times(log)
    assert "before" not in lines
    assert any(r'Connect export="a \"\$b\x0aReady\\" tls=0' in line for line in lines)
    assert lines.count("Ready") == 0


def test_without_a_logfile_nothing_is_logged() -> None:
    need("nbdinfo")
    with Server("-n", "--filter=log", "memory", "1M") as server:
        assert output("nbdinfo", "--size", server.uri) == f"{MIB}\n"
        output("nbdinfo", "--list", server.uri)


def test_a_part_that_is_not_there_is_refused_and_the_log_tells_why() -> None:
    need("nbdinfo")
    arguments = ("--filter=offset", "memory", "1M", "offset=1M", "range=1")
    with Server("-n", *arguments) as server:
        with pytest.raises(libnbd().Error), connected(server.uri):
            pass
        assert f"offset={MIB} range=1: the disk has only {MIB} bytes" in server.log


def test_qemu_sees_through_all_filters(tmp_path: Path) -> None:
    need("qemu-io")
    disk = tmp_path / "disk"
    disk.write_bytes(b"\x11" * MIB)
    filters = [f"--filter={name}" for name in ("log", "delay", "cow", "nozero", "noextents")]
    filters += ["--filter=error", "--filter=truncate", "--filter=offset"]
    arguments = ("file", str(disk), "offset=64k", "round-up=2M", f"logfile={tmp_path / 'log'}")
    with Server("-n", *filters, *arguments) as server:
        script = ["write -P 1 1000 5000", "write -z 64k 128k", "discard 512k 64k", "flush"]
        script += ["read -P 0x11 0 1000", "read -P 1 1000 5000", "read -P 0 64k 128k"]
        script += ["read -P 0 960k 64k", "write -P 2 1023k 1k"]  # past the end: cow makes it real
        words = [word for command in script for word in ("-c", command)]
        output("qemu-io", "-f", "raw", *words, server.uri)
        output("qemu-io", "-f", "raw", "-c", "read -P 2 1023k 1k", server.uri)
    assert disk.read_bytes() == b"\x11" * MIB


def test_noextents_lets_all_be_data() -> None:
    disk = Disk(bytes(SIZE))
    assert gate(disk, "").extents(SIZE, 0, 0) == [Extent(0, SIZE, HOLE | ZERO)]
    top = gate(disk, "noextents")
    assert not top.can_extents
    assert top.extents(SIZE, 0, 0) == [Extent(0, SIZE, 0)]


# -- the overlay of many clients --------------------------------------------------------------


def settle(sent: Sequence[tuple[Any, int]]) -> None:
    """Wait until the requests (handle, cookie) are answered; libnbd raises if one failed."""
    for handle, cookie in sent:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)


def slices(size: int, draw: random.Random) -> Iterator[tuple[int, int]]:
    """Cut a disk into small pieces; yield (offset, length)."""
    start = 0
    while start < size:
        length = min(draw.choice([1, 100, 512, 1000, 3000, 4096, 9000]), size - start)
        yield start, length
        start += length


@contextmanager
def clients(server: Server, count: int) -> Iterator[list[Any]]:
    handles = [libnbd().NBD() for _ in range(count)]
    for handle in handles:
        handle.connect_uri(server.uri)
    yield handles
    for handle in handles:
        handle.shutdown()


def send_some_write(handle: Any, data: bytes, offset: int, draw: random.Random) -> int:
    """Send a request that writes *data*, zeroes perhaps in another way; return its cookie."""
    if any(data):
        buffer = libnbd().Buffer.from_bytearray(bytearray(data))
        cookie = handle.aio_pwrite(buffer, offset)
    else:
        cookie = draw.choice([handle.aio_zero, handle.aio_trim])(len(data), offset)
    assert isinstance(cookie, int)
    return cookie


@pytest.mark.parametrize("arguments", [[], ["cow-on-read=true"]])
def test_clients_that_write_at_once_into_the_same_blocks(
    tmp_path: Path, arguments: list[str]
) -> None:
    size = 100 * BLOCK + 123
    disk = tmp_path / "disk"
    disk.write_bytes(noise(size))
    model = bytearray(noise(size))
    draw = random.Random(4)
    # What is copied from below comes late, so that others come between if they can.
    slow = ("--filter=cow", "--filter=delay", "file", disk, "rdelay=1ms", "cow-block-size=4k")
    with Server("-n", *slow, *arguments) as server:
        with clients(server, 4) as handles:
            for _ in range(4):
                sent = []
                for offset, length in slices(size, draw):
                    handle = draw.choice(handles)
                    data = draw.choice([bytes(length), draw.randbytes(length)])
                    sent.append((handle, send_some_write(handle, data, offset, draw)))
                    model[offset : offset + length] = data
                settle(sent)
                for handle in handles:
                    assert handle.pread(size, 0) == model
            assert len(server.serving()) == 4
        with connected(server.uri) as later:
            assert later.pread(size, 0) == model
    assert disk.read_bytes() == noise(size)


def test_the_overlay_is_gone_with_the_server(tmp_path: Path) -> None:
    need("qemu-io")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = ("-n", "--filter=cow", "file", disk)
    with Server(*arguments, environment={"TMPDIR": str(scratch)}) as server:
        output("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", server.uri)
        output("qemu-io", "-f", "raw", "-c", "read -P 1 0 1M", server.uri)
        assert not list(scratch.iterdir())  # it has no name
    with Server(*arguments) as server:
        output("qemu-io", "-f", "raw", "-c", "read -P 0 0 1M", server.uri)


def test_an_overlay_that_has_no_place(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    done = nbdfork("-f", "--filter=cow", "null", env={"TMPDIR": str(missing)})
    assert done.returncode == 1
    assert "cow: " in done.stderr
    assert str(missing) in done.stderr


def test_an_export_below_is_closed_when_its_filter_refuses() -> None:
    closed = []

    class Closing(Disk):
        def close(self) -> None:
            closed.append(True)

    with refused(errno.EINVAL):
        gate(Closing(bytes(10)), "offset", "offset=11")
    assert closed == [True]


def test_an_export_is_a_plain_export_to_its_filter() -> None:
    """Facts that no filter changes are those of the disk."""

    class Slow(Disk):
        def is_rotational(self) -> bool:
            return True

        def description(self) -> str:
            return "a slow disk"

    assert isinstance(Slow(b""), Export)
    for name in load.available(load.FILTER):
        if issubclass(load.find(name, load.FILTER).plugin_class, UnpackFilter):
            continue  # it would have to be compressed
        top = gate(Slow(bytes(SIZE)), name)
        assert (top.is_rotational, top.description) == (True, "a slow disk")
