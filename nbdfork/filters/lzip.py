"""The lzip filter: serve what is in lzip data.

They are one or more members, each with a trailer that says how long it is, and how long what is in
it.  So members are found from the end on, without decoding anything, and each is a block.
"""

import lzma
import struct
import zlib

from nbdfork.filters._blocks import (
    MAX_INDEX,
    Block,
    Blocks,
    BlocksExport,
    Disk,
    Limit,
    check_blocks,
    damaged,
    max_block,
    max_depth,
    max_index,
    refused,
)
from nbdfork.filters._decoded import Recorder, Share
from nbdfork.filters._source import Source
from nbdfork.filters._unpack import Facts, UnpackFilter, scratch_parameter
from nbdfork.plugin import Buffer, Parameter

_MAGIC = b"LZIP\1"
_HEAD = 6  # bytes: the magic number, the version, and the size of the dictionary
_TRAILER = struct.Struct("<IQQ")  # CRC, size of what is in the member, size of the member
_MOST_ZEROES = 1024 * 1024  # after the last member


class Lzip(UnpackFilter):
    """serve what is in lzip data"""

    lzip_max_block = Parameter(
        max_block, default=512 * 1024 * 1024, metavar="SIZE", help="the largest member to decode"
    )
    lzip_max_depth = Parameter(
        max_depth, default=8, metavar="N", help="how many members each client keeps"
    )
    lzip_max_index = Parameter(
        max_index, default=MAX_INDEX, metavar="N", help="how many members there may be"
    )
    lzip_scratch = scratch_parameter()

    def scratch(self) -> int:
        return self.lzip_scratch

    def learn(self, source: Source, recorder: Recorder) -> tuple[Disk, bytes, list[bytes]]:
        limit = Limit("lzip-max-index", self.lzip_max_index, self.lzip_max_index)
        blocks = Blocks()
        size = 0
        for place, length, unpacked in reversed(_members(source, limit)):
            if unpacked:
                blocks.append(Block(size, unpacked, place, length))
            size += unpacked
        return Disk(blocks, size), b"", []

    def serve(self, source: Source, disk: Disk, share: Share, facts: Facts) -> BlocksExport:
        largest = check_blocks(
            source,
            disk.blocks,
            "lzip-max-block",
            self.lzip_max_block,
            "compress it in smaller members (plzip --data-size)",
        )
        return LzipExport(source, disk, share, largest * self.lzip_max_depth, "lzip")


def _members(source: Source, limit: Limit) -> list[tuple[int, int, int]]:
    """Return place, length, and size unpacked of each member, the last one first.

    Raises OSError with EINVAL.
    """
    if source.pread(len(_MAGIC), 0) != _MAGIC:
        raise refused(source, "this is no lzip data")
    found: list[tuple[int, int, int]] = []
    end = _end(source)
    while end > 0:
        _, unpacked, length = _TRAILER.unpack(source.pread(_TRAILER.size, end - _TRAILER.size))
        start = end - length
        whole = _HEAD + _TRAILER.size < length <= end
        if not whole or source.pread(len(_MAGIC), start) != _MAGIC:
            raise refused(source, f"no member of lzip data ends at byte {end}: it is cut off")
        found.append((start, length, unpacked))
        limit.check(source, len(found))
        end = start
    return found


def _end(source: Source) -> int:
    """Return where the last member ends: zeroes may follow, as on a device."""
    least = max(source.end - _MOST_ZEROES, 0)
    end = source.end
    while end > least and not any(piece := source.pread(min(4096, end), max(0, end - 4096))):
        end -= len(piece)
    tail = source.pread(min(4096, end), max(0, end - 4096))
    stop = end - (len(tail) - len(tail.rstrip(b"\0")))
    # The size at the end of a trailer has zeroes of its own.
    for place in range(stop, min(stop + 8, end) + 1):
        if place < _TRAILER.size:
            continue
        length = _TRAILER.unpack(source.pread(_TRAILER.size, place - _TRAILER.size))[2]
        if length <= place and source.pread(len(_MAGIC), place - length) == _MAGIC:
            return place
    return source.end


class LzipExport(BlocksExport):
    """A disk of which each block is a member."""

    def decode(self, block: Block) -> Buffer:
        where = f"damaged lzip data in the member at byte {block.place}"
        packed = self.source.pread(block.length, block.place)
        crc, size, _ = _TRAILER.unpack(packed[-_TRAILER.size :])
        lzma1 = {
            "id": lzma.FILTER_LZMA1,
            "dict_size": _dictionary(packed[_HEAD - 1]),
            "lc": 3,
            "lp": 0,
            "pb": 2,
        }
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[lzma1])
        try:
            data = decoder.decompress(packed[_HEAD : -_TRAILER.size], block.size + 1)
        except lzma.LZMAError as error:
            raise damaged(self.source, f"{where}: {error}") from error
        if size != block.size or len(data) != size or zlib.crc32(data) != crc:
            raise damaged(self.source, where)
        return data


def _dictionary(code: int) -> int:
    """Return the size of the dictionary that is coded in a header."""
    base = 1 << min(code & 0x1F, 29)
    return max(4096, base - (base // 16) * (code >> 5))
