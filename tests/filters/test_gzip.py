"""The gzip filter: points to go on from, members, checksums."""

import gzip
from pathlib import Path

import pytest

from nbdfork.filters import _blocks, _source
from nbdfork.filters import gzip as gzip_filter
from tests.support.compressed import (
    MIB,
    SIZE,
    Below,
    all_of,
    all_of_first,
    read_error,
    refusal,
    smashed,
    unpacked,
)

LIMIT = _blocks.Limit("gzip-index-size", 4 * MIB, 16384)


def test_many_small_gzip_members(content: bytes) -> None:
    data = b"".join(gzip.compress(content[i : i + 9999], 1) for i in range(0, SIZE, 9999))
    known = gzip_filter.learn(_source.Source(Below(data), "disk"), 64, LIMIT)
    assert len(known.disk.blocks) <= SIZE // MIB + 1
    assert all_of(unpacked("gzip", data)) == content


def test_a_smaller_index_has_points_further_apart(files: dict[str, Path], content: bytes) -> None:
    source = _source.Source(Below(files["gzip"].read_bytes()), "disk")
    many = gzip_filter.learn(source, 64, LIMIT)
    few = gzip_filter.learn(source, 2, LIMIT)
    assert len(few.disk.blocks) <= 3 < len(many.disk.blocks)
    assert len(few.points) < len(many.points)
    assert sum(block.size for block in few.disk.blocks) == SIZE


def test_what_is_far_from_a_point_is_divided() -> None:
    export = unpacked("gzip", gzip.compress(bytes(40 * MIB), 9))
    assert isinstance(export, _blocks.BlocksExport)
    assert export.get_size() == 40 * MIB
    assert bytes(export.pread(MIB, 39 * MIB)) == bytes(MIB)
    parts = list(gzip_filter._blocks([(0, 10), (50 * MIB, 99)], MIB))
    assert [part.size // MIB for part in parts] == [16, 16, 16, 2]
    assert [part.offset // MIB for part in parts] == [0, 16, 32, 48]


def test_damage_in_the_middle_of_gzip(
    files: dict[str, Path], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    data = files["gzip"].read_bytes()
    export = unpacked("gzip", smashed(data, len(data) // 2))
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
    export = unpacked("gzip", data)
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
