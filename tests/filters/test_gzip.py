"""The gzip filter: points to go on from, members, checksums."""

import gzip
import random
from pathlib import Path

import pytest

from nbdfork.filters import _blocks
from nbdfork.filters import gzip as gzip_filter
from nbdfork.filters._deflate import Point
from tests.support.compressed import (
    MIB,
    SIZE,
    all_of,
    all_of_first,
    read_error,
    refusal,
    smashed,
    unpacked,
)


def without_scratch(data: bytes, **parameters: str) -> gzip_filter.GzipExport:
    """Return the disk when nothing is kept of the pass that was made over it."""
    export = unpacked("gzip", data, gzip_scratch="0", **parameters)
    assert isinstance(export, gzip_filter.GzipExport)
    return export


def test_many_small_gzip_members(content: bytes) -> None:
    data = b"".join(gzip.compress(content[i : i + 9999], 1) for i in range(0, SIZE, 9999))
    export = without_scratch(data)
    assert len(export._disk.blocks) <= SIZE // MIB + 1
    assert all_of(export) == content
    empty = gzip.compress(b"")
    assert all_of(without_scratch(empty * 3000 + data + empty * 3000)) == content


def test_a_smaller_index_has_points_further_apart() -> None:
    content = random.Random(1).randbytes(MIB) * 36
    data = gzip.compress(content, 1)
    many = without_scratch(data)
    few = without_scratch(data, gzip_index_size="1M")
    assert len(few._disk.blocks) <= 32 < 36 <= len(many._disk.blocks)
    assert len(few._points._offsets) <= 32
    for export in (many, few):
        for offset in (0, 3 * MIB - 9, 21 * MIB, 36 * MIB - 99):
            assert bytes(export.pread(99, offset)) == content[offset : offset + 99]


def test_what_is_far_from_a_point_is_divided() -> None:
    data = gzip.compress(bytes(40 * MIB), 9)
    export = without_scratch(data)
    assert export.get_size() == 40 * MIB
    assert bytes(export.pread(MIB, 39 * MIB)) == bytes(MIB)
    points = [Point(0, 10, 0, b"")]
    parts = list(gzip_filter._blocks(points, 50 * MIB, 99, MIB))
    assert [part.size // MIB for part in parts] == [16, 16, 16, 2]
    assert [part.offset // MIB for part in parts] == [0, 16, 32, 48]
    assert {(part.place, part.length) for part in parts} == {(10, 89)}


def test_damage_in_the_middle_of_gzip(
    files: dict[str, Path], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    data = files["gzip"].read_bytes()
    export = unpacked("gzip", smashed(data, len(data) // 2), gzip_salvage="true")
    assert export.get_size() == SIZE  # the trailer tells
    (good,) = (int(word) for word in caplog.messages[-1].split() if word.isdigit())
    assert SIZE // 4 < good < SIZE * 3 // 4
    assert bytes(export.pread(good, 0)) == content[:good]
    text, done = read_error(export, 100, good - 10)
    assert text.startswith("disk: damaged gzip data at or before byte ")
    assert done == 10


@pytest.mark.parametrize("lost", [1, 4, 8, 9, 100, 500_000])
def test_truncated_gzip(lost: int, files: dict[str, Path], content: bytes) -> None:
    data = files["gzip"].read_bytes()[:-lost]
    assert "gzip-salvage=true serves what can be decoded before that" in refusal("gzip", data)
    export = unpacked("gzip", data, gzip_salvage="true")
    assert isinstance(export, _blocks.BlocksExport)
    good = export._end
    assert good > SIZE - (lost * 300 if lost < 500 else SIZE // 2)
    assert all_of_first(export, good) == content[:good]
    assert export.get_size() > good  # so nobody can take what is there for all
    assert "truncated: they end at byte" in read_error(export, 1, export.get_size() - 1)[0]


def test_a_wrong_gzip_checksum_spoils_its_member(content: bytes) -> None:
    first, second = gzip.compress(content[:MIB]), bytearray(gzip.compress(content[MIB:]))
    second[-6] ^= 1  # of the CRC
    export = unpacked("gzip", first + second)
    assert export.get_size() == SIZE
    assert bytes(export.pread(MIB, 0)) == content[:MIB]
    text = f"disk: the checksum of the gzip data from byte {len(first)} on is wrong"
    assert read_error(export, 1, MIB) == (text, 0)
    message = refusal("gzip", bytes(second))
    assert message.endswith("from byte 0 on is wrong; nothing of it can be decoded")
