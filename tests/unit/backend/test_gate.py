"""The gate: bounds, read-only, alignment, emulation."""

import errno
from collections.abc import Callable

import pytest

from nbdfork.backend.errors import Refused
from nbdfork.backend.gate import Gate
from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    BlockSize,
    Export,
    Extent,
    PartialError,
    Support,
)


class Disk(Export):
    """A disk that notes what it is asked to do."""

    def __init__(self, size: int = 8192) -> None:
        self.data = bytearray(size)
        self.calls: list[tuple[object, ...]] = []

    def get_size(self) -> int:
        return len(self.data)

    def pread(self, count: int, offset: int) -> bytes:
        self.calls.append(("pread", count, offset))
        return bytes(self.data[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.calls.append(("pwrite", len(data), offset, flags))
        self.data[offset : offset + len(data)] = data


class Flushing(Disk):
    def flush(self) -> None:
        self.calls.append(("flush",))

    def trim(self, count: int, offset: int, flags: int) -> None:
        self.calls.append(("trim", count, offset, flags))

    def zero(self, count: int, offset: int, flags: int) -> None:
        self.calls.append(("zero", count, offset, flags))
        if flags & FAST_ZERO or not flags & MAY_TRIM:
            raise OSError(errno.EOPNOTSUPP, "only holes")


class Native(Flushing):
    def can_fua(self) -> Support:
        return Support.NATIVE


def refused(number: int, operation: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(Refused) as caught:
        operation(*arguments)
    assert caught.value.errno == number


def test_bounds() -> None:
    disk = Flushing()
    gate = Gate(disk, read_only=False)
    assert gate.pread(8192, 0) == bytes(8192)
    for offset, count in ((8191, 2), (8193, 0), (2**64 - 1, 1), (0, 8193)):
        refused(errno.EINVAL, gate.pread, count, offset)
        refused(errno.EINVAL, gate.trim, count, offset, False)
        refused(errno.ENOSPC, gate.zero, count, offset, True, False, False)
        if count <= 8193:
            refused(errno.ENOSPC, gate.pwrite, memoryview(bytes(count)), offset, False)
    assert [call[0] for call in disk.calls] == ["pread"]


def test_read_only() -> None:
    gate = Gate(Flushing(), read_only=True)
    assert not gate.can_write
    assert not gate.can_trim
    assert gate.fua is Support.NONE
    refused(errno.EPERM, gate.pwrite, memoryview(b"x"), 0, False)
    refused(errno.EPERM, gate.trim, 1, 0, False)
    refused(errno.EPERM, gate.zero, 1, 0, True, False, False)


def test_what_is_not_offered() -> None:
    gate = Gate(Disk(), read_only=False)
    assert (gate.can_flush, gate.can_trim, gate.cache_support) == (False, False, Support.NONE)
    refused(errno.EINVAL, gate.flush)
    refused(errno.EINVAL, gate.trim, 1, 0, False)
    refused(errno.EINVAL, gate.cache, 1, 0)


def test_alignment() -> None:
    class Sectors(Disk):
        def block_size(self) -> BlockSize:
            return BlockSize(512, 4096, 1 << 20)

    gate = Gate(Sectors(), read_only=False)
    assert len(gate.pread(512, 512)) == 512
    refused(errno.EINVAL, gate.pread, 511, 0)
    refused(errno.EINVAL, gate.pread, 512, 1)
    refused(errno.EINVAL, gate.pwrite, memoryview(b"x"), 0, False)


@pytest.mark.parametrize(
    "sizes",
    [
        (3, 4096, 65536),
        (1, 256, 65536),
        (131072, 131072, 1 << 20),
        (1, 4096, 512),
        (0, 512, 512),
        (512, 4096, (1 << 20) + 1),
        (1, 1 << 26, 1 << 26),
    ],
)
def test_facts_that_make_no_sense(sizes: tuple[int, int, int]) -> None:
    class Wrong(Disk):
        def block_size(self) -> BlockSize:
            return BlockSize(*sizes)

    with pytest.raises(OSError, match="block sizes are invalid"):
        Gate(Wrong(), read_only=False)


def test_size_that_makes_no_sense() -> None:
    class Endless(Disk):
        def get_size(self) -> int:
            return 2**63

    with pytest.raises(OSError, match="its size is"):
        Gate(Endless(), read_only=False)


def test_fua_is_emulated_by_a_flush() -> None:
    disk = Flushing()
    gate = Gate(disk, read_only=False)
    gate.pwrite(memoryview(b"x"), 0, True)
    gate.trim(1, 0, True)
    gate.zero(1, 0, True, False, True)
    assert disk.calls == [
        ("pwrite", 1, 0, 0),
        ("flush",),
        ("trim", 1, 0, 0),
        ("flush",),
        ("zero", 1, 0, MAY_TRIM),
        ("flush",),
    ]


def test_native_fua_is_handed_down() -> None:
    disk = Native()
    gate = Gate(disk, read_only=False)
    gate.pwrite(memoryview(b"x"), 0, True)
    gate.pwrite(memoryview(b"x"), 0, False)
    gate.trim(1, 0, True)
    gate.zero(1, 0, True, False, True)
    assert disk.calls == [
        ("pwrite", 1, 0, FUA),
        ("pwrite", 1, 0, 0),
        ("trim", 1, 0, FUA),
        ("zero", 1, 0, FUA | MAY_TRIM),
    ]


def test_emulation_keeps_to_the_maximum() -> None:
    class Small(Native):
        def block_size(self) -> BlockSize:
            return BlockSize(512, 4096, 65536 + 512)

    disk = Small(1 << 20)
    Gate(disk, read_only=False).zero(200 * 1024, 0, False, False, False)
    assert [call[1] for call in disk.calls[1:]] == [66048, 66048, 66048, 6656]


def test_zeroes_are_written_where_zero_does_not_work() -> None:
    size = (2 << 20) + 100
    disk = Native(size)
    disk.data[:] = b"x" * size
    gate = Gate(disk, read_only=False)
    gate.zero(size - 2, 1, False, False, True)
    assert disk.data == b"x" + bytes(size - 2) + b"x"
    assert [call[0] for call in disk.calls] == ["zero", "pwrite", "pwrite", "pwrite"]
    assert all(call[3] == FUA for call in disk.calls[1:])


def test_fast_zero_never_writes() -> None:
    for disk in (Disk(), Native()):
        gate = Gate(disk, read_only=False)
        refused(errno.EOPNOTSUPP, gate.zero, 512, 0, True, True, False)
        assert not any(call[0] == "pwrite" for call in disk.calls)


def test_other_errors_of_zero_are_not_hidden() -> None:
    class Full(Disk):
        def zero(self, count: int, offset: int, flags: int) -> None:
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        Gate(Full(), read_only=False).zero(1, 0, True, False, False)


def test_nothing_is_asked_for_nothing() -> None:
    disk = Native()
    gate = Gate(disk, read_only=False)
    assert gate.pread(0, 8192) == b""
    gate.pwrite(memoryview(b""), 8192, True)
    gate.trim(0, 0, True)
    gate.zero(0, 0, True, True, True)
    assert disk.calls == []


def test_short_answers_of_a_plugin_are_errors() -> None:
    class Short(Disk):
        def pread(self, count: int, offset: int) -> bytes:
            return bytes(count - 1)

    with pytest.raises(OSError, match="returned 511 bytes for 512") as caught:
        Gate(Short(), read_only=False).pread(512, 0)
    assert caught.value.errno == errno.EIO


def test_cache_by_reading() -> None:
    class Emulated(Disk):
        def can_cache(self) -> Support:
            return Support.EMULATE

    disk = Emulated(3 << 20)
    Gate(disk, read_only=True).cache((2 << 20) + 5, 7)
    assert [call[1:] for call in disk.calls] == [
        (1 << 20, 7),
        (1 << 20, 7 + (1 << 20)),
        (5, 7 + (2 << 20)),
    ]


# -- reading what has holes -------------------------------------------------------------------


class Holed(Disk):
    """Blocks of 4 KiB: every other one is a hole; extents are known only if so said."""

    def __init__(self, size: int = 65536, fails: bool = False, block: int = 1) -> None:
        super().__init__(size)
        self.fails = fails
        self.minimum = block
        for start in range(0, size, 8192):
            self.data[start : start + 4096] = b"d" * len(self.data[start : start + 4096])

    def block_size(self) -> BlockSize:
        return BlockSize(minimum=self.minimum)

    def extents(self, count: int, offset: int, flags: int) -> list[Extent]:
        self.calls.append(("extents", count, offset, flags))
        if self.fails:
            raise OSError(errno.EIO, "nobody knows")
        return [
            Extent(start, 4096, 0 if start % 8192 == 0 else HOLE | ZERO)
            for start in range(0, len(self.data), 4096)
        ]


def test_holes_are_left_out_of_what_is_read() -> None:
    gate = Gate(Holed(), read_only=False)
    parts = gate.pread_sparse(10000, 4000)
    assert parts == [
        (Extent(4000, 96, 0), b"d" * 96),
        (Extent(4096, 4096, HOLE | ZERO), None),
        (Extent(8192, 4096, 0), b"d" * 4096),
        (Extent(12288, 1712, HOLE | ZERO), None),
    ]


def test_a_disk_that_waits_is_read_at_once() -> None:
    """A question before each read would double the round trips, and each part would be one more."""
    disk = Holed()
    parts = Gate(disk, read_only=False, seeks_holes=False).pread_sparse(10000, 4000)
    assert [(extent, len(data or b"")) for extent, data in parts] == [
        (Extent(4000, 10000, 0), 10000)
    ]
    assert [call[0] for call in disk.calls] == ["pread"]


def test_what_is_known_to_be_data_is_not_looked_at_again() -> None:
    disk = Holed()
    gate = Gate(disk, read_only=False)
    for offset, count, asked in ((8192, 4096, 1), (8200, 100, 0), (8192, 4096, 0), (12288, 10, 1)):
        disk.calls.clear()
        gate.pread_sparse(count, offset)
        assert sum(call[0] == "extents" for call in disk.calls) == asked
    gate.zero(100, 8192, may_trim=True, fast=False, fua=False)
    disk.calls.clear()
    gate.pread_sparse(100, 8192)
    assert disk.calls[0][0] == "extents"


def test_a_range_whose_extents_are_not_told_is_data() -> None:
    gate = Gate(Holed(fails=True), read_only=False)
    assert gate.pread_sparse(8192, 0) == [(Extent(0, 8192, 0), b"d" * 4096 + bytes(4096))]


def test_looking_ahead_keeps_to_whole_blocks() -> None:
    """The disk ends in the middle of a block, which no client can read."""
    disk = Holed(size=65536 + 100, block=512)
    parts = Gate(disk, read_only=False).pread_sparse(4096, 61440)
    assert parts == [(Extent(61440, 4096, HOLE | ZERO), None)]
    assert disk.calls[0] == ("extents", 4096, 61440, REQ_ONE)


def test_extents_end_at_whole_blocks() -> None:
    disk = Holed(block=512)
    disk.extents = lambda count, offset, flags: [  # type: ignore[method-assign]
        Extent(0, 700, HOLE | ZERO),
        Extent(700, 1000, ZERO),
        Extent(1700, 60000, 0),
    ]
    gate = Gate(disk, read_only=False)
    assert gate.extents(8192, 0, 0) == [
        Extent(0, 512, HOLE | ZERO),
        Extent(512, 1024, ZERO),
        Extent(1536, 6656, 0),
    ]


def test_emulation_has_an_end() -> None:
    class Endless(Disk):
        def get_size(self) -> int:
            return 1 << 60

        def can_cache(self) -> Support:
            return Support.EMULATE

    gate = Gate(Endless(), read_only=False)
    refused(errno.EINVAL, gate.cache, 1 << 59, 0)
    refused(errno.EINVAL, gate.zero, 1 << 59, 0, True, False, False)


def test_where_a_sparse_read_failed_counts_from_its_beginning() -> None:
    class Failing(Holed):
        def pread(self, count: int, offset: int) -> bytes:
            raise PartialError(errno.EIO, "bad", 100)

    with pytest.raises(PartialError) as caught:
        Gate(Failing(), read_only=False).pread_sparse(8192, 4096)
    assert caught.value.done == 4096 + 100


# -- resizing ---------------------------------------------------------------------------------


class Elastic(Disk):
    def can_resize(self) -> bool:
        return True

    def resize(self, size: int) -> None:
        self.calls.append(("resize", size))
        self.data = bytearray(size)


def test_a_size_that_a_client_changes_counts_at_once() -> None:
    gate = Gate(Elastic(), False)
    gate.resize(512)
    assert gate.size == 512
    with pytest.raises(Refused) as caught:
        gate.pread(1, 512)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("disk", "read_only", "number"),
    [(Elastic(), True, errno.EPERM), (Disk(), False, errno.EINVAL), (Disk(), True, errno.EPERM)],
    ids=["read-only", "of one size", "both"],
)
def test_no_other_disk_is_resized(disk: Disk, read_only: bool, number: int) -> None:
    gate = Gate(disk, read_only)
    assert not gate.can_resize
    with pytest.raises(Refused) as caught:
        gate.resize(512)
    assert (caught.value.errno, gate.size, disk.calls) == (number, 8192, [])


def test_the_end_of_a_view_is_read_again_in_whole_blocks() -> None:
    class Blocks(Disk):
        def block_size(self) -> BlockSize:
            return BlockSize(512, 512, 4096)

    disk = Blocks()
    disk.data[:] = bytes(range(256)) * 32
    gate = Gate(disk, read_only=False)
    assert gate.read_again(1500, 2048 - 1500) == disk.data[548:2048]
    assert disk.calls == [("pread", 1536, 512)]
    del disk.data[1000:]
    with pytest.raises(OSError, match="returned 488 bytes for 1536"):
        gate.read_again(1500, 548)
