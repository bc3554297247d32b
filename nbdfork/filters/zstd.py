"""The zstd filter: serve what is in zstd data.

zstd data are a sequence of frames.  A seek table at the end, if there is one, tells where they are
(the seekable format, contrib/seekable_format of zstd).  Without it, all of the disk is decoded for
its first client to find out, and the result is shared with the others.
"""

import struct
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from nbdfork.filters._blocks import (
    MAX_INDEX,
    Block,
    Blocks,
    BlocksExport,
    Disk,
    Limit,
    check_blocks,
    max_block,
    max_depth,
    max_index,
    refused,
)
from nbdfork.filters._decoded import Recorder, Share
from nbdfork.filters._frames import Codec, FramesExport, scan
from nbdfork.filters._source import Source
from nbdfork.filters._unpack import Facts, UnpackFilter, salvage_parameter, scratch_parameter
from nbdfork.plugin import ConfigError, Parameter, parse

# RFC 8878, sections 3.1.1 and 3.1.2; a skippable frame has any of 16 magic numbers.
_FRAME = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_EMPTY = 256 * 1024  # more than a block of a frame that is not empty can be

_LEAST_WINDOW, _MOST_WINDOW = 1024, 2**31  # bytes; the most is the library's

# The seekable format.
_TABLE = 0x184D2A5E
_TABLE_HEADER = struct.Struct("<II")  # magic, size of what follows
_TABLE_FOOTER = struct.Struct("<IBI")  # number of frames, descriptor, magic
_SEEKABLE = 0x8F92EAB1
_HAS_CHECKSUMS = 0x80
_RESERVED = 0x7C
_ENTRIES = 16 * 1024  # of a table that are read in one step


def _max_window(text: str) -> int:
    """Parse the size of the largest window."""
    value = parse.size(text)
    if not _LEAST_WINDOW <= value <= _MOST_WINDOW:
        raise ValueError("a window has from 1K to 2G")
    return value


class Zstd(UnpackFilter):
    """serve what is in zstd data"""

    zstd_max_block = Parameter(
        max_block, default=512 * 1024 * 1024, metavar="SIZE", help="the largest frame to decode"
    )
    zstd_max_depth = Parameter(
        max_depth, default=8, metavar="N", help="how many frames each client keeps"
    )
    zstd_max_index = Parameter(
        max_index, default=MAX_INDEX, metavar="N", help="how many frames there may be"
    )

    zstd_max_window = Parameter(
        _max_window,
        default=128 * 1024 * 1024,
        metavar="SIZE",
        help="the largest window to decode with",
    )

    zstd_salvage = salvage_parameter()
    zstd_scratch = scratch_parameter()

    def get_ready(self) -> None:
        self._codec = _codec(self.zstd_max_window)._replace(
            salvage=("zstd-salvage", self.zstd_salvage)
        )
        super().get_ready()

    def scratch(self) -> int:
        return self.zstd_scratch

    def learn(self, source: Source, recorder: Recorder) -> tuple[Disk, bytes, list[bytes]]:
        limit = Limit("zstd-max-index", self.zstd_max_index, self.zstd_max_index)
        disk = read_table(source, limit)
        if disk is None:
            disk = scan(source, self._codec, limit, recorder.write).disk(source)
        return disk, b"", []

    def serve(self, source: Source, disk: Disk, share: Share, facts: Facts) -> BlocksExport:
        largest = check_blocks(
            source,
            disk.blocks,
            "zstd-max-block",
            self.zstd_max_block,
            "compress it in smaller frames (pzstd)",
        )
        return FramesExport(source, disk, share, largest * self.zstd_max_depth, self._codec)


def _codec(max_window: int) -> Codec:
    library = codec_library()
    options = {library.DecompressionParameter.window_log_max: (max_window - 1).bit_length()}

    def beyond(head: bytes) -> str:
        window = window_size(head)
        if window <= max_window:
            return ""
        return (
            f"needs a window of {window} bytes, more than zstd-max-window={max_window}: raise"
            " zstd-max-window, which costs each client that much memory"
        )

    return Codec(
        "zstd",
        lambda: library.ZstdDecompressor(options=options),
        (library.ZstdError,),
        "checksum",
        _begins,
        beyond=beyond,
    )


def window_size(head: bytes) -> int:
    """Return how many bytes the frame that begins with *head* needs for its window (RFC 8878,
    section 3.1.1.1), or 0 if it is none, is to be skipped or has been cut off there.
    """
    if int.from_bytes(head[:4], "little") != _FRAME or len(head) < 6:
        return 0
    descriptor = head[4]
    if not descriptor & 0x20:
        base = 1 << 10 + (head[5] >> 3)
        return base + base // 8 * (head[5] & 7)
    # A single segment: the window is the content.
    at = 5 + (0, 1, 2, 4)[descriptor & 3]
    count = (1, 2, 4, 8)[descriptor >> 6]
    size = int.from_bytes(head[at : at + count], "little")
    return size + 256 if count == 2 else size


def codec_library() -> Any:
    """Return the module with zstd.  Raises `ConfigError` if there is none."""
    for module in ("compression.zstd", "backports.zstd"):  # the first is of Python 3.14
        try:
            return import_module(module)
        except ImportError:
            pass
    raise ConfigError('zstd needs backports.zstd: pip install "nbdfork[zstd]"')


def _begins(head: bytes) -> bool:
    magic = int.from_bytes(head[:4], "little")
    return magic == _FRAME or magic & ~0xF == _SKIPPABLE


def _is_empty(source: Source, place: int, length: int) -> bool:
    """Return whether a frame, if it is one, has nothing of the disk."""
    head = source.pread(min(length, _EMPTY), place)
    if int.from_bytes(head[:4], "little") & ~0xF == _SKIPPABLE:
        return True
    library = codec_library()
    decompressor = library.ZstdDecompressor()
    try:
        return not decompressor.decompress(head, 1) and bool(decompressor.eof)
    except library.ZstdError:
        return False


def read_table(source: Source, limit: Limit) -> Disk | None:
    """Return the disk that the seek table of *source* describes, or None if there is no table.

    Raises OSError with EINVAL for a table that is wrong, or longer than the *limit* allows.
    """
    footer = source.pread(_TABLE_FOOTER.size, max(0, source.end - _TABLE_FOOTER.size))
    if len(footer) < _TABLE_FOOTER.size:
        return None
    count, descriptor, magic = _TABLE_FOOTER.unpack(footer)
    if magic != _SEEKABLE:
        return None
    entry = struct.Struct("<III" if descriptor & _HAS_CHECKSUMS else "<II")
    inside = count * entry.size + _TABLE_FOOTER.size
    start = source.end - inside - _TABLE_HEADER.size
    if start < 0 or descriptor & _RESERVED:
        raise refused(source, "the zstd seek table is damaged")
    limit.check(source, count)
    header = source.pread(_TABLE_HEADER.size, start)
    if len(header) < _TABLE_HEADER.size or _TABLE_HEADER.unpack(header) != (_TABLE, inside):
        raise refused(source, "the zstd seek table is damaged")
    blocks = Blocks()
    offset = place = 0
    for length, size in _entries(source, start + _TABLE_HEADER.size, count, entry):
        if not size and not _is_empty(source, place, length):
            raise refused(source, "the zstd seek table does not match the data before it")
        if size:
            blocks.append(Block(offset, size, place, length))
        offset, place = offset + size, place + length
    if place != start:
        raise refused(source, "the zstd seek table does not match the data before it")
    return Disk(blocks, offset)


def _entries(
    source: Source, place: int, count: int, entry: struct.Struct
) -> Iterator[tuple[int, int]]:
    """Yield the sizes of the frames, compressed and not, that the *count* entries at *place* tell;
    they are read in parts.
    """
    for first in range(0, count, _ENTRIES):
        some = min(count - first, _ENTRIES)
        data = source.pread(some * entry.size, place + first * entry.size)
        for length, size, *_ in entry.iter_unpack(data):
            yield length, size
