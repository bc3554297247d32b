"""The memory plugin: a sparse RAM disk that gives back what is trimmed."""

import os

import pytest

from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    MAY_TRIM,
)
from tests.support.plugins import plugin

SIZE = 1 << 20


def test_memory_is_sparse_and_as_large_as_can_be() -> None:
    made = plugin("memory", str(2**63 - 1))
    export = made.open("", False)
    assert export.get_size() == 2**63 - 1
    export.pwrite(memoryview(b"end"), 2**63 - 4, 0)
    assert export.pread(5, 2**63 - 6) == b"\0\0end"
    assert export.pread(4096, 2**40) == bytes(4096)
    export.trim(4096, 2**40, 0)
    export.zero(8192, 2**41, MAY_TRIM)
    export.close()


@pytest.mark.parametrize("flags", [0, MAY_TRIM, FAST_ZERO])
def test_memory_zeroes(flags: int) -> None:
    export = plugin("memory", "1M").open("", False)
    export.pwrite(memoryview(b"x" * SIZE), 0, 0)
    export.zero(SIZE - 2, 1, flags | FUA)
    assert export.pread(SIZE, 0) == b"x" + bytes(SIZE - 2) + b"x"
    export.close()


def test_memory_is_given_back() -> None:
    """What is trimmed costs nothing any more."""
    made = plugin("memory", "64M")
    export = made.open("", False)
    export.pwrite(memoryview(bytes(64 << 20)), 0, 0)
    descriptor = made.__dict__["_disk"].fd
    assert os.fstat(descriptor).st_blocks * 512 == 64 << 20
    export.trim(64 << 20, 0, 0)
    assert os.fstat(descriptor).st_blocks == 0
    export.pread(1 << 20, 0)
    assert os.fstat(descriptor).st_blocks == 0  # reading a hole does not allocate it
    export.close()
