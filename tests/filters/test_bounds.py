"""What compressed data announce takes no memory before it is there: the peak is measured."""

import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from nbdfork.plugin import DescriptorExport, Export
from tests.support import memory
from tests.support.compressed import (
    MIB,
    Below,
    compressed,
    filter_of,
    kept,
    need_libraries,
    read_error,
    unpacked,
)

HEADER = lzma.compress(b"", check=lzma.CHECK_CRC32)[:12]  # of an xz stream


def sparse(path: Path, parts: dict[int, bytes]) -> Export:
    """Return a file with *parts* at their places, and nothing else."""
    with path.open("wb") as file:
        for place, part in parts.items():
            file.seek(place)
            file.write(part)
    assert path.stat().st_blocks * 512 < 16 * MIB
    return DescriptorExport(os.open(path, os.O_RDONLY), writable=False)


def xz_end(records: list[tuple[int, int]]) -> bytes:
    need_libraries("xz")
    from xz import common

    return bytes(common.create_xz_index_footer(lzma.CHECK_CRC32, records))


def a_long_xz_index(path: Path) -> Export:
    """Its 4 GiB are those of a hole."""
    footer = (2**32 // 4 - 1).to_bytes(4, "little") + HEADER[6:8]
    tail = zlib.crc32(footer).to_bytes(4, "little") + footer + b"YZ"
    return sparse(path, {0: HEADER, 2**32 + 4096: tail})


def a_zstd_table_of_a_gigabyte(path: Path) -> Export:
    count = 2**27
    size = 8 * count + 9
    header = b"\x5e\x2a\x4d\x18" + size.to_bytes(4, "little")
    footer = count.to_bytes(4, "little") + b"\0\xb1\xea\x92\x8f"
    return sparse(path, {64: header, 64 + 8 + 8 * count: footer})


@pytest.mark.parametrize(
    ("name", "make", "limits", "text"),
    [
        ("xz", a_long_xz_index, {}, "4294967296 bytes are too many for 0 blocks"),
        ("xz", a_long_xz_index, {"xz_max_index": 2**32}, "too many for 0 blocks"),
        ("zstd", a_zstd_table_of_a_gigabyte, {}, "more than 262144 blocks"),
        ("zstd", a_zstd_table_of_a_gigabyte, {"zstd_max_index": 2**32}, "does not match the data"),
    ],
)
def test_an_index_that_a_small_file_announces(
    name: str, make: Callable[[Path], Export], limits: dict[str, int], text: str, tmp_path: Path
) -> None:
    need_libraries(name)
    layer = filter_of(name, **limits)
    below = make(tmp_path / "disk")
    with memory.growth() as grown, pytest.raises(OSError, match=text):
        layer.unpack(below, "disk")
    assert grown() < 8 * MIB
    below.close()


def test_many_tiny_blocks_of_xz_take_40_bytes_each(tmp_path: Path) -> None:
    count = 40_000
    end = xz_end([(13, 1)] * count)
    below = sparse(tmp_path / "disk", {0: HEADER, 12 + 16 * count: end})
    layer = filter_of("xz")
    layer.unpack(below, "disk")  # the first client learns it for the others
    with memory.growth() as grown:
        export = kept(layer.unpack(below, "disk"))
    assert export.get_size() == count
    assert grown() < 40 * count + 8 * MIB


def test_an_xz_block_that_says_it_is_large_takes_no_memory(tmp_path: Path) -> None:
    data = compressed("xz", b"few words", "xz -0 --check=crc32")
    size = (len(data) - 24 - 8) // 4 * 4
    end = xz_end([(size, 500 * MIB)])
    below = sparse(tmp_path / "disk", {0: data[: 12 + size], 12 + size: end})
    export = kept(filter_of("xz").unpack(below, "disk"))
    with memory.growth() as grown:
        assert "damaged xz data in the block at byte 12" in read_error(export, 1, 400 * MIB)[0]
    assert grown() < 8 * MIB


MANY = {"gzip": 10_000, "bzip2": 500}


@pytest.mark.parametrize("name", MANY)
def test_thousands_of_tiny_members(name: str) -> None:
    data = compressed(name, b"x", name) * MANY[name]
    with memory.growth() as grown:
        export = unpacked(name, data)
        assert export.get_size() == MANY[name]
        assert bytes(export.pread(MANY[name], 0)) == b"x" * MANY[name]
    assert grown() < 32 * MIB


ZEROES = {
    "gzip": lambda: gzip.compress(bytes(128 * MIB), 1),
    "bzip2": lambda: compressed("bzip2", bytes(8 * MIB), "bzip2") * 16,
    "zstd": lambda: compressed("zstd", bytes(8 * MIB), "zstd -q") * 16,
    "lz4": lambda: compressed("lz4", bytes(8 * MIB), "lz4 -q") * 16,
    "xz": lambda: compressed("xz", bytes(8 * MIB), "xz -0") * 16,
}


@pytest.mark.parametrize("name", ZEROES)
@pytest.mark.parametrize("scratch", ["0", "1G"])
def test_a_small_file_with_very_many_zeroes(name: str, scratch: str) -> None:
    data = ZEROES[name]()
    layer = filter_of(name, **{f"{name}_scratch": scratch})
    with memory.growth() as grown:
        export = kept(layer.unpack(Below(data), "disk"))
        assert export.get_size() == 128 * MIB
        for place in range(0, 128 * MIB, 30 * MIB):
            assert bytes(export.pread(4096, place)) == bytes(4096)
    assert grown() < 96 * MIB  # 8 blocks, and one that is being decoded
    assert os.fstat(layer._decoded._file.fd).st_blocks == 0
