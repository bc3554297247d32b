"""The xz filter: serve what is in xz data.

An xz file consists of streams, each of which ends with an index of its blocks, and the blocks can
be decoded independently.  So the file is read backwards from index to index, which is quick enough
to be done for each client.  To have a block decoded together with its check, a header and an index
are put around it that make it a file of its own.  The format:
https://tukaani.org/xz/xz-file-format.txt
"""

import itertools
import lzma
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

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
from nbdfork.filters._frames import pieces, unpack
from nbdfork.filters._source import Source
from nbdfork.filters._unpack import Facts, UnpackFilter, scratch_parameter
from nbdfork.plugin import Buffer, ConfigError, Parameter, parse

if TYPE_CHECKING:
    from types import ModuleType

_MAGIC = b"\xfd7zXZ\0"
_ENVELOPE = 12  # bytes of a stream's header, and of its footer
_LOOK = 4096
_LOOK_FAR = 1024 * 1024  # once there are many zeroes

_CHECKSUM = 4  # bytes of an index's CRC32
_MAX_INTEGER = 9  # bytes of an integer (section 1.2), which has 7 bits in each
_INDEX_ENDS = 1 + _MAX_INTEGER + 3 + 4  # bytes at most: indicator, count; padding, CRC32
_MAX_RECORD = 2 * _MAX_INTEGER


class Keys(NamedTuple):
    """What users know the parameters of the filter as that messages name."""

    max_block: str = "xz-max-block"
    max_index: str = "xz-max-index"


class Xz(UnpackFilter):
    """serve what is in xz data"""

    xz_max_block = Parameter(
        max_block, default=512 * 1024 * 1024, metavar="SIZE", help="the largest block to decode"
    )
    xz_max_depth = Parameter(
        max_depth, default=8, metavar="N", help="how many blocks each client keeps"
    )
    xz_max_index = Parameter(
        max_index, default=MAX_INDEX, metavar="N", help="how many blocks there may be"
    )

    xz_scratch = scratch_parameter()

    def __init__(self, keys: Keys = Keys(), **parameters: Any) -> None:  # noqa: B008 - a constant
        super().__init__(**parameters)
        self._keys = keys

    def get_ready(self) -> None:
        _library()
        super().get_ready()

    def scratch(self) -> int:
        return self.xz_scratch

    def learn(self, source: Source, recorder: Recorder) -> tuple[Disk, bytes, list[bytes]]:
        limit = Limit(self._keys.max_index, self.xz_max_index, self.xz_max_index)
        blocks, checks = read_index(source, limit)
        end = blocks[-1].offset + blocks[-1].size if blocks else 0
        return Disk(blocks, end), checks, []

    def serve(self, source: Source, disk: Disk, share: Share, facts: Facts) -> BlocksExport:
        largest = check_blocks(
            source,
            disk.blocks,
            self._keys.max_block,
            self.xz_max_block,
            "compress it in smaller ones (xz --block-size=16MiB)",
        )
        return XzExport(source, disk, share, largest * self.xz_max_depth, facts.small)


class XzExport(BlocksExport):
    """The *disk* of which each block is one of xz, with its kind of check in *checks*; the length
    of a block in the source is without the padding to a multiple of 4 bytes.
    """

    def __init__(
        self, source: Source, disk: Disk, share: Share, capacity: int, checks: bytes
    ) -> None:
        super().__init__(source, disk, share, capacity, "xz")
        self._checks = checks

    def decode(self, block: Block) -> Buffer:
        xz = _library()
        kind = self._checks[bisect_left(self._offsets, block.offset)]
        before = xz.create_xz_header(kind)
        after = xz.create_xz_index_footer(kind, [(block.length, block.size)])
        padded = block._replace(length=_padded(block.length))
        data = itertools.chain([before], pieces(self.source, padded), [after])
        try:
            return unpack(lzma.LZMADecompressor(lzma.FORMAT_XZ), data, block.size)
        except (lzma.LZMAError, ValueError) as error:
            where = f"damaged xz data in the block at byte {block.place}"
            raise damaged(self.source, f"{where}: {error}") from error


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def _library() -> "ModuleType":
    try:
        from xz import common
    except ImportError:
        raise ConfigError('xz needs python-xz: pip install "nbdfork[xz]"') from None
    return common


def read_index(source: Source, limit: Limit) -> tuple[Blocks, bytes]:
    """Return all blocks of the xz data in *source*, and the kind of check that each has.

    Raises OSError with EINVAL if they are not xz data, have no index at the end, or more blocks
    than the *limit* allows; an empty stream counts as a block.
    """
    if source.pread(len(_MAGIC), 0) != _MAGIC:
        raise refused(source, "these are not xz data")
    streams: list[Stream] = []
    count = 0
    end = _without_padding(source, source.end)
    while end:
        try:
            start, stream = _read_stream(source, end, limit)
        except (_library().XZError, ValueError) as error:
            raise refused(
                source,
                f"there is no xz index that ends at byte {end} ({error}): the data are truncated or"
                " damaged, or something follows them; xz -t tells, xz -dc gets what can be had",
            ) from error
        if stream.blocks or not streams:
            streams.append(stream)
        count += len(stream.blocks) or 1
        limit.check(source, count)
        end = _without_padding(source, start)
    return _joined(source, streams[::-1])


class Stream(NamedTuple):
    """The *blocks* of a stream, not yet at their offsets, and their *kind* of check."""

    blocks: Blocks
    kind: int


def _joined(source: Source, streams: list[Stream]) -> tuple[Blocks, bytes]:
    """Return the blocks of all *streams*, each at its place on the disk, and their checks.

    Raises OSError with EINVAL if the disk would be too large.
    """
    blocks = Blocks()
    checks = bytearray()
    offset = 0
    for stream in streams:
        checks += bytes([stream.kind]) * len(stream.blocks)
        for block in stream.blocks:
            blocks.append(block._replace(offset=offset))
            offset += block.size
            if offset > parse.MAX_SIZE:
                raise refused(source, "the xz index says that there are more than 2^63-1 bytes")
    return blocks, bytes(checks)


def _without_padding(source: Source, end: int) -> int:
    """Return where the stream ends that is before *end*: any number of 4 zero bytes may follow."""
    look = _LOOK
    while end:
        tail = source.pread(min(end, look), max(0, end - look))
        zeroes = len(tail) - len(tail.rstrip(b"\0"))
        end -= zeroes // 4 * 4
        if zeroes < len(tail):
            break
        look = _LOOK_FAR
    return end


def _read_stream(source: Source, end: int, limit: Limit) -> tuple[int, Stream]:
    """Return the start of the stream that ends at *end*, and the stream.

    Raises XZError or ValueError for what is not a stream, OSError for more blocks than the *limit*
    allows.
    """
    xz = _library()
    if end < 2 * _ENVELOPE:
        raise ValueError("it is too short")
    kind, length = xz.parse_xz_footer(source.pread(_ENVELOPE, end - _ENVELOPE))
    index = end - _ENVELOPE - length
    if index < _ENVELOPE:
        raise ValueError("the index does not fit")
    blocks = Blocks()
    total = 0  # bytes of all blocks
    for unpadded, size in _read_records(source, index, length, limit):
        blocks.append(Block(0, size, total, unpadded))
        total += _padded(unpadded)
        if total > index:
            break
    first = index - total
    start = first - _ENVELOPE
    if start < 0 or xz.parse_xz_header(source.pread(_ENVELOPE, start)) != kind:
        raise ValueError("the index does not match the blocks")
    placed = Blocks(block._replace(place=first + block.place) for block in blocks)
    return start, Stream(placed, kind)


def _read_records(
    source: Source, place: int, length: int, limit: Limit
) -> Iterator[tuple[int, int]]:
    """Yield the records of the index of *length* bytes at *place* (section 4): the unpadded size of
    each block, and its size.

    The index is only read if it has as many bytes as it needs for the records that it announces:
    a sparse file can have any number of bytes.  It is read in parts.
    """
    index = _Index(source, place, length - _CHECKSUM)
    if index.take(1) != b"\0":
        raise ValueError("it does not begin as an index does")
    count = index.integer()
    limit.check(source, count)
    if length > _INDEX_ENDS + count * _MAX_RECORD:
        raise ValueError(f"{length} bytes are too many for {count} blocks")
    if index.crc32() != source.pread(_CHECKSUM, place + length - _CHECKSUM):
        raise ValueError("its crc32 is wrong")
    for _ in range(count):
        unpadded, size = index.integer(), index.integer()
        if not (unpadded and size):
            raise ValueError("it has a block without data")
        yield unpadded, size
    if index.left > 3 or any(index.take(index.left)):
        raise ValueError("it does not end after its last block")


class _Index:
    """Reads the *length* bytes of an index at *place*, in parts; *left* are still to come."""

    def __init__(self, source: Source, place: int, length: int) -> None:
        self._source = source
        self._place = place
        self._length = self.left = length
        self._part = b""  # what was read, of which the bytes from *_at* on are still to come
        self._at = 0

    def crc32(self) -> bytes:
        """Return the checksum of all of it."""
        value = 0
        for start in range(0, self._length, _LOOK):
            count = min(_LOOK, self._length - start)
            value = zlib.crc32(self._source.pread(count, self._place + start), value)
        return value.to_bytes(_CHECKSUM, "little")

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes, which are few.  Raises ValueError if there are fewer."""
        if count > self.left:
            raise ValueError("it ends too early")
        if self._at + count > len(self._part):
            start = self._place + self._length - self.left
            self._part = self._source.pread(min(_LOOK, self.left), start)
            self._at = 0
        self._at += count
        self.left -= count
        return self._part[self._at - count : self._at]

    def integer(self) -> int:
        """Return the next integer (section 1.2)."""
        value = 0
        for shift in range(0, 7 * _MAX_INTEGER, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise ValueError("an integer has no end")
