"""The xz filter: streams, padding, checks and the index at the end."""

import lzma
import tracemalloc
import zlib
from pathlib import Path

import pytest

from tests.support.compressed import MIB, Below, all_of, compressed, filter_of, refusal, unpacked


def test_xz_streams_with_padding(content: bytes) -> None:
    parts = [content[:MIB], b"", content[MIB:]]
    streams = [compressed("xz", part) for part in parts]
    data = streams[0] + bytes(8) + streams[1] + streams[2] + bytes(5000)
    assert all_of(unpacked("xz", data)) == content


@pytest.mark.parametrize("check", ["none", "crc32", "crc64", "sha256"])
def test_xz_checks(check: str, content: bytes) -> None:
    data = compressed("xz", content[: 2 * MIB], f"xz -0 --check={check} --block-size=300KiB")
    assert all_of(unpacked("xz", data)) == content[: 2 * MIB]


def test_an_xz_disk_beyond_4_gib() -> None:
    stream = compressed("xz", bytes(32 * MIB), "xz -0")
    export = unpacked("xz", stream * 130 + compressed("xz", b"the end"))
    assert export.get_size() == 130 * 32 * MIB + 7
    assert bytes(export.pread(9, export.get_size() - 9)) == b"\0\0the end"


def test_xz_that_does_not_end_in_an_index_is_refused(files: dict[str, Path]) -> None:
    data = files["xz"].read_bytes()
    for wrong in (data[:-1], data[:-4], data[: len(data) // 2], data + b"garbage!", data[:20]):
        assert "disk: there is no xz index that ends at byte" in refusal("xz", wrong)
    inside = bytearray(data)
    inside[-30] ^= 1
    assert "crc32" in refusal("xz", bytes(inside))
    assert refusal("xz", b"") == "disk: these are not xz data"


class Sparse(Below):
    """A disk of many zeroes with the beginning and the end of an xz file, and an *index* before."""

    def __init__(self, index: bytes, length: int) -> None:
        super().__init__(b"")
        self._head = lzma.compress(b"")[:12]
        footer = (length // 4 - 1).to_bytes(4, "little") + self._head[6:8]
        self._tail = zlib.crc32(footer).to_bytes(4, "little") + footer + b"YZ"
        self._index = index
        self._place = 4096 + 2**32 - length

    def get_size(self) -> int:
        return 4096 + 2**32 + 12

    def pread(self, count: int, offset: int) -> bytes:
        self.read += count
        data = bytearray(count)
        for place, part in (
            (0, self._head),
            (self._place, self._index),
            (2**32 + 4096, self._tail),
        ):
            for at, byte in enumerate(part, place - offset):
                if 0 <= at < count:
                    data[at] = byte
        return bytes(data)


MANY = bytes([0, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F])


@pytest.mark.parametrize(
    ("index", "length", "text"),
    [
        (bytes(20), 2**32, "4294967296 bytes are too many for 0 blocks"),
        (b"\0\x01\x7f\x7f", 2**31, "2147483648 bytes are too many for 1 blocks"),
        (MANY, 2**32, "there are more than 262144 blocks, too many for xz-max-index=262144"),
        (b"\0" + b"\x80" * 4000, 2**32, "an integer has no end"),
        (b"\0\x01" + b"\x80" * 22, 24, "crc32"),
    ],
)
def test_an_xz_index_is_not_read_because_it_says_that_it_is_long(
    index: bytes, length: int, text: str
) -> None:
    below = Sparse(index, length)
    layer = filter_of("xz")
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match=text):
            layer.unpack(below, "disk")
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    assert below.read < 64 * 1024


def test_xz_may_have_as_many_blocks_as_is_said() -> None:
    data = compressed("xz", bytes(50 * 4096), "xz -0 --block-size=4096")
    assert unpacked("xz", data, xz_max_index=50).get_size() == 50 * 4096
    assert "more than 49 blocks" in refusal("xz", data, xz_max_index=49)
    assert "more than 9 blocks" in refusal("xz", lzma.compress(b"") * 10, xz_max_index=9)
