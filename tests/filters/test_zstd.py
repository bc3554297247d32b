"""The zstd filter: frames, and the table in which they can be looked up."""

import struct

import pytest

from nbdfork.filters import zstd
from tests.support.compressed import (
    MIB,
    SIZE,
    Below,
    all_of,
    compressed,
    filter_of,
    read_error,
    refusal,
    seek_table,
    unpacked,
)


def test_zstd_with_a_seek_table_needs_no_pass(content: bytes) -> None:
    frames = [compressed("zstd", content[i : i + MIB], "zstd -q") for i in range(0, SIZE, MIB)]
    for checksums in (False, True):
        below = Below(b"".join(frames) + seek_table(frames, content, checksums))
        export = filter_of("zstd").unpack(below, "disk")
        assert export.get_size() == SIZE
        assert below.read < 2 * 4096 + 400  # the ends tell whether the disk has changed
        assert all_of(export) == content


def test_a_wrong_zstd_seek_table_is_refused(content: bytes) -> None:
    frames = [compressed("zstd", content[:MIB], "zstd -q")]
    table = seek_table(frames, content[:MIB], False)
    assert "does not match" in refusal("zstd", frames[0] + b"x" + table)
    assert "table is damaged" in refusal("zstd", frames[0] + b"y" + table[1:])
    assert "table is damaged" in refusal("zstd", table[-9:])


def test_a_seek_table_that_calls_a_frame_empty_is_refused(content: bytes) -> None:
    """The disk would be shorter than it is; frames that are empty, or to be skipped, may be so."""
    frames = [compressed("zstd", part, "zstd -q") for part in (content[:MIB], b"", content[MIB:])]
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
    sizes = {frames[0]: MIB, frames[1]: 0, skippable: 0, frames[2]: SIZE - MIB}
    good = b"".join(sizes) + table(sizes)
    assert all_of(unpacked("zstd", good)) == content
    sizes[frames[0]] = 0
    assert "does not match" in refusal("zstd", b"".join(sizes) + table(sizes))


def table(sizes: dict[bytes, int]) -> bytes:
    """Return the seek table of frames with what they are said to unpack to."""
    entries = b"".join(struct.pack("<II", len(frame), size) for frame, size in sizes.items())
    footer = struct.pack("<IBI", len(sizes), 0, 0x8F92EAB1)
    return struct.pack("<II", 0x184D2A5E, len(entries) + len(footer)) + entries + footer


def test_a_seek_table_of_entries_without_frames_is_refused(content: bytes) -> None:
    frame = compressed("zstd", content[:MIB], "zstd -q")
    half = b"\x28\xb5\x2f\xfd"  # the beginning of a frame, from which nothing can come
    for parts in ({frame: MIB, b"": 0}, {frame: MIB, half: 0}):
        assert "does not match" in refusal("zstd", b"".join(parts) + table(parts))


LONG = "zstd -q --long=28"  # a window of 256 MiB, however little there is


def test_the_limit_of_a_window_has_a_name_and_can_be_raised(content: bytes) -> None:
    frame = compressed("zstd", content, LONG)
    text = "the zstd frame at byte 0 needs a window of 268435456 bytes, more than zstd-max-window="
    assert text in refusal("zstd", frame)
    assert all_of(unpacked("zstd", frame, zstd_max_window="256M")) == content
    with_table = unpacked("zstd", frame + table({frame: SIZE}))
    for _ in range(2):
        assert text in read_error(with_table, 1, 0)[0]
    second = compressed("zstd", b"few words", "zstd -q") + frame
    assert "the zstd frame at byte 22 needs" in refusal("zstd", second)


def test_windows_are_known_by_the_heads_of_frames() -> None:
    magic = b"\x28\xb5\x2f\xfd"
    for tail, size in (
        (b"\0\x88", 1 << 27),
        (b"\0\x89", (1 << 27) + (1 << 24)),
        (b"\x20\x05", 5),  # a single segment, as large as its content
        (b"\x63id\0\0\xff\0", 255 + 256),
        (b"\xa1d\0\0\0\x10", 1 << 28),
        (b"\xe0\0\0\0\0\1\0\0\0", 1 << 32),
        (b"", 0),
    ):
        assert zstd.window_size(magic + tail) == size
    assert zstd.window_size(b"\x50" + magic[1:] + b"\0\x88") == 0


@pytest.mark.parametrize("size", ["0", "1023", "2147483649"])
def test_a_window_has_its_bounds(size: str) -> None:
    with pytest.raises(ValueError, match="a window has from 1K to 2G"):
        filter_of("zstd", zstd_max_window=size)
