"""The bzip2 filter: serve what is in bzip2 data.

bzip2 data consist of blocks of up to 900 kB that can be decoded independently, but no index tells
where they begin, and it can be at any bit.  So all of the disk is decoded for its first client to
find out, and the result is shared with the others.
"""

from itertools import pairwise
from typing import Any

from nbdfork.filters._blocks import (
    LIBRARY_ERRORS,
    MAX_INDEX,
    Block,
    Blocks,
    BlocksExport,
    Disk,
    Limit,
    SeekingExport,
    damaged,
    lossy,
    max_index,
    refused,
    size_with_loss,
)
from nbdfork.filters._decoded import Recorder, Share
from nbdfork.filters._source import Source
from nbdfork.filters._unpack import Facts, UnpackFilter, scratch_parameter
from nbdfork.plugin import ConfigError, Parameter

_MAGIC = b"BZh"
_PIECE = 1024 * 1024

_STARTS = tuple(int.from_bytes(magic, "big") for magic in (b"1AY&SY", b"\x17rE8P\x90"))
"""What a block begins with, and what the end of a member does; each can be at any bit."""

_START_SIZE = 6  # bytes

_FIVE_BYTES = (1 << 40) - 1

_SIGNS = [
    (start >> 8 - bit & _FIVE_BYTES).to_bytes(5, "big") for start in _STARTS for bit in range(8)
]
"""The whole bytes that all have in common which begin so, for each bit where they can be."""

_KEEP = 16 * 1024 * 1024  # bytes of the disk that each client keeps


class Bzip2(UnpackFilter):
    """serve what is in bzip2 data"""

    bzip2_max_index = Parameter(
        max_index, default=MAX_INDEX, metavar="N", help="how many blocks there may be"
    )

    bzip2_scratch = scratch_parameter()

    def get_ready(self) -> None:
        self._library = _library()
        super().get_ready()

    def scratch(self) -> int:
        return self.bzip2_scratch

    def serve(self, source: Source, disk: Disk, share: Share, facts: Facts) -> BlocksExport:
        def open_file() -> Any:
            file = self._library.IndexedBzip2File(source)
            file.set_block_offsets(_offsets(disk))
            return file

        return SeekingExport(source, disk, share, _KEEP, "bzip2", open_file)

    def learn(self, source: Source, recorder: Recorder) -> tuple[Disk, bytes, list[bytes]]:
        """Return the disk in *source*; where its blocks are in the source is in bits.

        Raises OSError if nothing of it can be decoded.
        """
        if source.pread(len(_MAGIC), 0) != _MAGIC:
            raise refused(source, "these are not bzip2 data")
        most = self.bzip2_max_index
        _check_count(source, Limit("bzip2-max-index", most, most))
        file = self._library.IndexedBzip2File(source)
        try:
            offsets, damage = _read_all(file, source, recorder)
        finally:
            file.close()  # otherwise its threads abort the process when it exits
        blocks = Blocks(
            Block(offset, stop - offset, place, end - place)
            for (place, offset), (end, stop) in pairwise(offsets)
            if stop > offset
        )
        size = offsets[-1][1]
        if damage and not size:
            raise damaged(source, f"{damage}; nothing of it can be decoded")
        disk = lossy(source, blocks, size_with_loss(size) if damage else size, damage)
        return disk, b"", []


def _read_all(file: Any, source: Source, recorder: Recorder) -> tuple[list[tuple[int, int]], str]:
    """Return where the blocks of *file* begin, in the source and on the disk, and its end; and what
    is wrong with it, or "".
    """
    damage = ""
    buffer = bytearray(_PIECE)
    try:
        while count := file.raw.readinto(buffer):
            recorder.write(bytes(memoryview(buffer)[:count]))
        offsets = file.block_offsets()
    except LIBRARY_ERRORS as error:
        if source.failure is not None:
            raise source.failure from error
        offsets = file.available_block_offsets() or {0: 0}
        damage = f"damaged or truncated bzip2 data at or after byte {max(offsets) // 8}: {error}"
    return sorted(offsets.items()), damage


def _check_count(source: Source, limit: Limit) -> None:
    """Refuse more blocks than the *limit* allows; the end of a member counts as one.

    The library would remember all of them.  This reads all of the source, a few hundredths of the
    time that decoding it takes, unless it is too small for so many.
    """
    if source.end <= limit.most * _START_SIZE:
        return
    count = 0
    before = b""
    for place in range(0, source.end, _PIECE):
        piece = before + source.pread(_PIECE, place)
        count += sum(piece.count(sign) for sign in _SIGNS)
        limit.check(source, count)
        before = piece[-4:]


def _offsets(disk: Disk) -> dict[int, int]:
    """Map where each block begins in the source to where it begins on the disk, and so the end."""
    last = disk.blocks[-1]
    return {
        **{block.place: block.offset for block in disk.blocks},
        last.place + last.length: last.offset + last.size,
    }


def _library() -> Any:
    try:
        import rapidgzip
    except ImportError:
        raise ConfigError('bzip2 needs rapidgzip: pip install "nbdfork[bzip2]"') from None
    return rapidgzip
