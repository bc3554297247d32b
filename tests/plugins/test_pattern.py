"""The pattern plugin: each 8 bytes tell their offset."""

import struct

import pytest

from tests.support.plugins import Sides, opened


@pytest.mark.parametrize("size", ["0", "7", "8", "1000003", "3M"])
def test_pattern(sides: Sides, size: str) -> None:
    theirs, ours = sides.images("pattern", size)
    assert ours == theirs


def test_pattern_at_any_offset() -> None:
    export = opened("pattern", str(2**63 - 1))
    whole = b"".join(struct.pack(">Q", n) for n in range(0, 64, 8))
    for start in range(20):
        for end in range(start + 1, 40):
            assert bytes(export.pread(end - start, start)) == whole[start:end]
    assert bytes(export.pread(9, 2**63 - 10)) == bytes.fromhex("fff07fffffffffffff")
