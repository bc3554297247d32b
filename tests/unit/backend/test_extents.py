"""How extents are read: what they are made into, and what one reply costs."""

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from threading import Lock
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.backend.extents import MOST_EXTENTS, ExtentReader, align
from nbdfork.backend.gate import Gate
from nbdfork.plugin import HOLE, REQ_ONE, ZERO, BlockSize, DescriptorExport, Export, Extent
from tests.support.exports import Filling
from tests.support.exports import Mapped as Given
from tests.support.paths import ROOT

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK = 4 * KIB
MOST_AT_ONCE = 4 * GIB - 64 * KIB  # what a client without extended headers asks about


class Fragmented:
    """A disk of which every other block is a hole, told in one way or another.

    *gave* counts what its answers had, each of them.
    """

    def __init__(self, size: int, block: int = BLOCK, hole: int = HOLE | ZERO) -> None:
        self.size = size
        self.block = block
        self.hole = hole
        self.gave: list[int] = []

    def at(self, number: int) -> Extent:
        return Extent(number * self.block, self.block, self.hole if number % 2 else 0)

    def numbers(self, count: int, offset: int) -> range:
        return range(offset // self.block, -(-(offset + count) // self.block))

    def lazily(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        self.gave.append(0)
        for number in self.numbers(count, offset):
            self.gave[-1] += 1
            yield self.at(number)

    def as_a_list(self, count: int, offset: int, flags: int) -> list[Extent]:
        self.gave.append(len(self.numbers(count, offset)))
        return [self.at(number) for number in self.numbers(count, offset)]


def replies(reader: ExtentReader, size: int, flags: int = 0) -> Iterator[list[Extent]]:
    """Ask until all of the disk is told of, as a client does."""
    offset = 0
    while offset < size:
        found = reader.read(min(size - offset, MOST_AT_ONCE), offset, flags)
        yield found
        offset = found[-1].offset + found[-1].length
    assert offset == size


# -- what a reply costs -----------------------------------------------------------------------


def test_no_more_is_taken_from_an_export_than_a_reply_has_room_for() -> None:
    disk = Fragmented(20000 * BLOCK)
    told = list(replies(ExtentReader(disk.lazily), disk.size))
    assert sum(map(len, told)) == 20000
    assert max(disk.gave) <= MOST_EXTENTS + 1
    assert len(told) <= 20000 // MOST_EXTENTS + 2


def test_extents_of_one_type_count_each() -> None:
    """They make one extent for the client, but take time as others do."""
    disk = Fragmented(20000 * BLOCK, hole=0)
    told = list(replies(ExtentReader(disk.lazily), disk.size))
    assert max(map(len, told)) == 1
    assert max(disk.gave) <= MOST_EXTENTS


@pytest.mark.parametrize("block", [512, BLOCK, 64 * KIB, MIB])
def test_an_export_that_makes_lists_is_asked_for_about_what_a_reply_has_room_for(
    block: int,
) -> None:
    disk = Fragmented(100_000 * block, block)
    list(replies(ExtentReader(disk.as_a_list), disk.size))
    assert sum(disk.gave[1:]) < 3 * 100_000
    assert max(disk.gave[1:]) <= 2 * MOST_EXTENTS
    assert disk.gave[0] <= 16 * MIB // block


def test_the_same_below_filters_which_make_no_lists() -> None:
    disk = Fragmented(100_000 * BLOCK)
    reader = ExtentReader(lambda *asked: iter(disk.as_a_list(*asked)))
    list(replies(reader, disk.size))
    assert sum(disk.gave) < 3 * 100_000


@pytest.mark.parametrize("answer", ["lazily", "as_a_list"])
def test_who_asks_for_one_extent_does_not_pay_for_a_reply_full_of_them(answer: str) -> None:
    disk = Fragmented(1000 * BLOCK)
    told = list(replies(ExtentReader(getattr(disk, answer)), disk.size, REQ_ONE))
    assert [len(found) for found in told] == [1] * 1000
    assert max(disk.gave[1:]) <= 32


def test_a_disk_with_little_to_tell_is_told_of_in_few_replies() -> None:
    """An export that keeps to the range it is asked about, over an empty disk of 1 TiB."""
    asked: list[int] = []

    def empty(count: int, offset: int, flags: int) -> list[Extent]:
        asked.append(count)
        return [Extent(offset, count, HOLE | ZERO)]

    for flags in (0, REQ_ONE):
        asked.clear()
        told = list(replies(ExtentReader(empty), 1024 * GIB, flags))
        assert len(told) <= 1024 // 4 + 4
        assert max(asked) == MOST_AT_ONCE


def test_one_who_asks_for_one_does_not_shorten_the_replies_to_who_wants_all() -> None:
    disk = Fragmented(3 * MOST_EXTENTS * BLOCK)
    reader = ExtentReader(disk.as_a_list)
    for found in replies(reader, 100 * BLOCK, REQ_ONE):
        assert len(found) == 1
    assert len(reader.read(disk.size, 0, 0)) == MOST_EXTENTS


def test_an_export_whose_answers_become_sparse_is_asked_for_more_again() -> None:
    disk = Fragmented(16 * MIB)
    whole = 1024 * GIB

    def first_dense(count: int, offset: int, flags: int) -> list[Extent]:
        if offset >= disk.size:
            return [Extent(offset, count, HOLE)]
        return disk.as_a_list(min(count, disk.size - offset), offset, flags)

    told = list(replies(ExtentReader(first_dense), whole))
    assert len(told) < 300


class Watched(list[Extent]):
    """A list of all of a disk, which notes how many of it are looked at."""

    looked = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        self.looked += len(found) if isinstance(index, slice) else 1
        return found


def test_a_list_of_the_whole_disk_is_not_walked_up_to_where_it_is_asked_about() -> None:
    disk = Fragmented(50_000 * BLOCK)
    whole = Watched(disk.as_a_list(disk.size, 0, 0))
    reader = ExtentReader(lambda count, offset, flags: whole)
    assert reader.read(3 * BLOCK, 40_001 * BLOCK + 5, 0) == [
        Extent(40_001 * BLOCK + 5, BLOCK - 5, HOLE | ZERO),
        Extent(40_002 * BLOCK, BLOCK, 0),
        Extent(40_003 * BLOCK, BLOCK, HOLE | ZERO),
        Extent(40_004 * BLOCK, 5, 0),
    ]
    assert whole.looked <= MOST_EXTENTS + 50
    assert reader.read(BLOCK, disk.size - BLOCK, 0) == [disk.at(49_999)]
    with pytest.raises(OSError, match="no extent that holds"):
        reader.read(BLOCK, disk.size, 0)


def test_a_file_is_sought_in_as_often_as_a_reply_has_extents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fd = os.memfd_create("test")
    blocks = 3 * MOST_EXTENTS
    os.ftruncate(fd, blocks * BLOCK)
    for number in range(0, blocks, 2):
        os.pwrite(fd, b"x", number * BLOCK)
    gate = Gate(DescriptorExport(fd, writable=True), True)
    sought = 0
    seek = os.lseek

    def lseek(fd: int, position: int, whence: int) -> int:
        nonlocal sought
        sought += 1
        return seek(fd, position, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    assert len(gate.extents(gate.size, 0, 0)) == MOST_EXTENTS
    assert sought <= MOST_EXTENTS + 2
    sought = 0
    assert gate.extents(gate.size - BLOCK, BLOCK, REQ_ONE) == [Extent(BLOCK, BLOCK, HOLE | ZERO)]
    assert sought == 1
    gate.close()


# -- what they are made into ------------------------------------------------------------------


def test_what_an_export_tells_beyond_what_it_was_asked_counts() -> None:
    asked: list[int] = []

    def whole(count: int, offset: int, flags: int) -> list[Extent]:
        asked.append(count)
        return [Extent(0, 1024 * GIB, 0)]

    assert ExtentReader(whole).read(2 * GIB, 5, 0) == [Extent(5, 2 * GIB, 0)]
    assert asked[0] < 2 * GIB


def test_types_that_nobody_knows() -> None:
    def strange(count: int, offset: int, flags: int) -> list[Extent]:
        return [Extent(offset, 1, 0), Extent(offset + 1, count, 4)]

    with pytest.raises(OSError, match="unknown types") as caught:
        ExtentReader(strange, HOLE | ZERO).read(10, 0, 0)
    assert caught.value.errno == errno.EIO
    assert ExtentReader(strange).read(10, 0, 0) == [Extent(0, 1, 0), Extent(1, 9, 4)]


class Mapped(Export):
    """A disk with *parts*, told in one of three ways, in blocks of *minimum*."""

    def __init__(self, parts: Sequence[Extent], way: str, minimum: int) -> None:
        self.parts = parts
        self.way = way
        self.minimum = minimum

    def get_size(self) -> int:
        last = self.parts[-1]
        return last.offset + last.length

    def block_size(self) -> BlockSize:
        return BlockSize(self.minimum)

    def extents(self, count: int, offset: int, flags: int) -> Iterable[Extent]:
        assert not (count | offset) % self.minimum
        if self.way == "the whole disk":
            return list(self.parts)
        held = [part for part in self.parts if part.offset + part.length > offset]
        within = (part for part in held if part.offset < offset + count)
        return list(within) if self.way == "a list" else within


@st.composite
def disks(draw: st.DrawFn) -> list[Extent]:
    lengths = draw(st.lists(st.integers(1, 700), min_size=1, max_size=60))
    unit = draw(st.sampled_from([1, 64, 512, 64 * KIB, 40 * MIB]))
    parts = []
    offset = 0
    for length in lengths:
        parts.append(Extent(offset, length * unit, draw(st.integers(0, 3))))
        offset += length * unit
    return parts


@given(
    parts=disks(),
    way=st.sampled_from(["lazily", "a list", "the whole disk"]),
    minimum=st.sampled_from([1, 512, 4096]),
    flags=st.sampled_from([0, REQ_ONE]),
    start=st.integers(0, 100),
    most=st.sampled_from([1, 5, 4096]),
)
def test_all_that_is_told_is_true(
    parts: list[Extent], way: str, minimum: int, flags: int, start: int, most: int
) -> None:
    """Whatever a client asks, and in however many replies: nothing that is data is a hole, and
    without block sizes every extent is exactly as the disk has it.
    """
    disk = Mapped(parts, way, minimum)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("nbdfork.backend.extents.MOST_EXTENTS", most)
        gate = Gate(disk, read_only=True)
        end = gate.size - gate.size % minimum
        offset = end * start // 100 // minimum * minimum
        told: list[Extent] = []
        while offset < end:
            found = gate.extents(end - offset, offset, flags)
            assert found[0].offset == offset
            assert len(found) <= (1 if flags else most)
            told += found
            offset = found[-1].offset + found[-1].length
    assert all(one.offset + one.length == two.offset for one, two in pairwise(told))
    assert not told or told[-1].offset + told[-1].length == end
    for offset, length, kind in told:
        held = [
            part.type
            for part in parts
            if part.offset < offset + length and part.offset + part.length > offset
        ]
        if minimum == 1:
            assert set(held) == {kind}
        assert all(one & kind == kind for one in held)


@given(
    parts=disks(), block=st.sampled_from([512, 4096]), cut=st.integers(0, 4096), rest=st.booleans()
)
def test_aligned_extents_end_at_blocks(
    parts: list[Extent], block: int, cut: int, rest: bool
) -> None:
    end = parts[-1].offset + parts[-1].length
    disk_end = end if rest else end + block + cut
    found = align(parts, block, disk_end)
    assert found[0].offset == 0
    assert all(one.offset + one.length == two.offset for one, two in pairwise(found))
    assert all(one.type != two.type for one, two in pairwise(found))
    assert all(part.length > 0 for part in found)
    for part in found[:-1]:
        assert (part.offset + part.length) % block == 0
    last = found[-1].offset + found[-1].length
    assert last % block == 0 or last == disk_end


def test_extents_are_clipped_and_merged() -> None:
    gate = Gate(Given((0, 1024, 0), (1024, 512, HOLE), (1536, 512, HOLE), (2048, 9999, ZERO)), True)
    assert gate.extents(3000, 100, 0) == [(100, 924, 0), (1024, 1024, HOLE), (2048, 1052, ZERO)]
    assert gate.extents(2000, 1100, REQ_ONE) == [(1100, 948, HOLE)]


def test_extents_stop_at_a_gap() -> None:
    gate = Gate(Given((0, 512, 0), (1024, 512, HOLE)), True)
    assert gate.extents(4096, 0, 0) == [(0, 512, 0)]
    with pytest.raises(OSError, match="no extent that holds 600"):
        gate.extents(100, 600, 0)


def test_without_extents_all_is_data() -> None:
    assert Gate(Filling(), True).extents(4096, 0, 0) == [(0, 4096, 0)]


def test_the_library_for_c_plugins_keeps_as_many_as_a_reply_has_room_for() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "plugins/c").glob("*.c"))
    assert re.findall(r"^#define MAX_EXTENTS (\d+)$", sources, re.MULTILINE) == [str(MOST_EXTENTS)]


class Lazy(Export):
    """A disk of 4 GiB whose extents are made while they are taken."""

    def __init__(self, noted: Callable[[], None]) -> None:
        self.noted = noted

    def get_size(self) -> int:
        return 4 * GIB

    def contexts(self) -> list[str]:
        return ["x-test:age"]

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        for start in range(offset, offset + count, MIB):
            self.noted()
            yield Extent(start, MIB, start // MIB % 2)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        return self.extents(count, offset, flags)


def test_the_lock_is_held_until_all_are_taken() -> None:
    lock = Lock()
    held: list[bool] = []
    gate = Gate(Lazy(lambda: held.append(lock.locked())), True, lock)
    gate.extents(MIB * 10, 0, 0)
    gate.status("x-test:age", MIB * 10, 0, 0)
    assert held == [True] * 20
    assert not lock.locked()


def test_what_is_logged_is_what_the_export_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        gate = Gate(Lazy(lambda: None), True)
        gate.extents(2 * GIB, MIB, REQ_ONE)
        gate.status("x-test:age", MIB, 0, 0)
    assert caplog.messages == [
        f"extents({16 * MIB}, {MIB}, {REQ_ONE})",
        f"extents of x-test:age({MIB}, 0, 0)",
    ]
