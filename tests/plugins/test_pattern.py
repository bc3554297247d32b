"""The pattern plugin: each 8 bytes tell their offset."""

import struct

import pytest

from tests.support.plugins import Sides, content, opened, refusal


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


# What nbdkit 1.48.1 serves for `pattern 64 stride=32 upper=0x1234`.
STRIDE_32 = "1234" + "00" * 30 + "1234" + "00" * 5 + "20" + "00" * 24


def test_strides_and_upper_bits_are_those_of_nbdkit() -> None:
    whole = bytes.fromhex(STRIDE_32)
    export = opened("pattern", "64", "stride=32", "upper=0x1234")
    assert content(export) == whole
    assert bytes(export.pread(20, 30)) == whole[30:50]


def test_random_upper_bits_are_the_same_for_a_server_and_not_zero() -> None:
    data = content(opened("pattern", "64", "upper=random"))
    assert data[:2] != b"\0\0"
    assert {data[start : start + 2] for start in range(0, 64, 8)} == {data[:2]}


@pytest.mark.parametrize("parameter", ["stride=4", "stride=12", "upper=65536", "upper=x"])
def test_what_is_refused(parameter: str) -> None:
    key = parameter.partition("=")[0]
    assert f"{key}=" in refusal("pattern", "64", parameter)


def test_what_is_written_must_be_what_is_read() -> None:
    export = opened("pattern", "4096")
    export.pwrite(memoryview(export.pread(100, 5)), 5, 0)
    with pytest.raises(OSError, match="is not what is read at this offset"):
        export.pwrite(memoryview(b"x"), 0, 0)
