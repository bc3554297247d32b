"""The xz filter: streams, padding, checks and the index at the end."""

from pathlib import Path

import pytest

from tests.support.compressed import MIB, all_of, compressed, refusal, unpacked


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
