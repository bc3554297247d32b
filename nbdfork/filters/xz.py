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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from nbdfork.filters._blocks import (
    MAX_INDEX,
    Block,
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
from nbdfork.filters._frames import pieces, unpack
from nbdfork.filters._source import Source
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import Buffer, ConfigError, Export, Parameter

if TYPE_CHECKING:
    from types import ModuleType

_MAGIC = b"\xfd7zXZ\0"
_ENVELOPE = 12  # bytes of a stream's header, and of its footer
_LOOK = 4096
_LOOK_FAR = 1024 * 1024  # once there are many zeroes

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

    def __init__(self, keys: Keys = Keys(), **parameters: Any) -> None:  # noqa: B008 - a constant
        super().__init__(**parameters)
        self._keys = keys

    def get_ready(self) -> None:
        _library()

    def unpack(self, next: Export, name: str) -> BlocksExport:
        source = Source(next, name)
        most = self.xz_max_index
        found = read_index(source, Limit(self._keys.max_index, most, most))
        blocks = [block for block, _ in found]
        largest = check_blocks(
            source,
            blocks,
            self._keys.max_block,
            self.xz_max_block,
            "compress it in smaller ones (xz --block-size=16MiB)",
        )
        size = sum(block.size for block in blocks)
        checks = dict(found)
        return XzExport(source, Disk(blocks, size), largest * self.xz_max_depth, checks)


class XzExport(BlocksExport):
    """The *disk* of which each block is one of xz, with its kind of check in *checks*."""

    def __init__(
        self, source: Source, disk: Disk, capacity: int, checks: dict[Block, "Check"]
    ) -> None:
        super().__init__(source, disk, capacity, "xz")
        self._checks = checks

    def decode(self, block: Block) -> Buffer:
        xz = _library()
        kind, unpadded = self._checks[block]
        before = xz.create_xz_header(kind)
        after = xz.create_xz_index_footer(kind, [(unpadded, block.size)])
        data = itertools.chain([before], pieces(self.source, block), [after])
        try:
            return unpack(lzma.LZMADecompressor(lzma.FORMAT_XZ), data, block.size)
        except (lzma.LZMAError, ValueError) as error:
            where = f"damaged xz data in the block at byte {block.place}"
            raise damaged(self.source, f"{where}: {error}") from error


class Check(NamedTuple):
    """The *kind* of check that a block ends with, and its size as the index has it."""

    kind: int
    unpadded: int


def _library() -> "ModuleType":
    try:
        from xz import common
    except ImportError:
        raise ConfigError('xz needs python-xz: pip install "nbdfork[xz]"') from None
    return common


def read_index(source: Source, limit: Limit) -> list[tuple[Block, Check]]:
    """Return all blocks of the xz data in *source*.

    Raises OSError with EINVAL if they are not xz data, have no index at the end, or more blocks
    than the *limit* allows; an empty stream counts as a block.
    """
    if source.pread(len(_MAGIC), 0) != _MAGIC:
        raise refused(source, "these are not xz data")
    streams = []
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
        streams.append(stream)
        count += len(stream) or 1
        limit.check(source, count)
        end = _without_padding(source, start)
    return list(_joined(reversed(streams)))


def _joined(streams: Iterator[list[tuple[Block, Check]]]) -> Iterator[tuple[Block, Check]]:
    """Yield the blocks of all *streams*, each at its place on the disk."""
    offset = 0
    for block, check in itertools.chain.from_iterable(streams):
        yield block._replace(offset=offset), check
        offset += block.size


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


def _read_stream(source: Source, end: int, limit: Limit) -> tuple[int, list[tuple[Block, Check]]]:
    """Return the start of the stream that ends at *end*, and its blocks, not yet at their offsets.

    Raises XZError or ValueError for what is not a stream, OSError for more blocks than the *limit*
    allows.
    """
    xz = _library()
    if end < 2 * _ENVELOPE:
        raise ValueError("it is too short")
    kind, length = xz.parse_xz_footer(source.pread(_ENVELOPE, end - _ENVELOPE))
    place = end - _ENVELOPE - length
    if place < _ENVELOPE:
        raise ValueError("the index does not fit")
    records = _read_records(source, place, length, limit)
    place -= sum(-(-unpadded // 4) * 4 for unpadded, _ in records)
    start = place - _ENVELOPE
    if start < 0 or xz.parse_xz_header(source.pread(_ENVELOPE, start)) != kind:
        raise ValueError("the index does not match the blocks")
    found = []
    for unpadded, size in records:
        block = Block(0, size, place, -(-unpadded // 4) * 4)
        found.append((block, Check(kind, unpadded)))
        place += block.length
    return start, found


def _read_records(source: Source, place: int, length: int, limit: Limit) -> list[tuple[int, int]]:
    """Return the records of the index of *length* bytes at *place* (section 4): the unpadded size
    of each block, and its size.

    The index is only read if it has as many bytes as it needs for the records that it announces:
    a sparse file can have any number of bytes.
    """
    head = source.pread(1 + _MAX_INTEGER, place)
    if not head or head[0]:
        raise ValueError("it does not begin as an index does")
    count, at = _integer(head, 1)
    limit.check(source, count)
    if length > _INDEX_ENDS + count * _MAX_RECORD:
        raise ValueError(f"{length} bytes are too many for {count} blocks")
    index = source.pread(length, place)
    body, checksum = index[:-4], index[-4:]
    if zlib.crc32(body).to_bytes(4, "little") != checksum:
        raise ValueError("its crc32 is wrong")
    records = []
    for _ in range(count):
        unpadded, at = _integer(body, at)
        size, at = _integer(body, at)
        if not (unpadded and size):
            raise ValueError("it has a block without data")
        records.append((unpadded, size))
    if at > len(body) or any(body[at:]) or len(body) - at > 3:
        raise ValueError("it does not end after its last block")
    return records


def _integer(data: bytes, start: int) -> tuple[int, int]:
    """Return the integer at *start* of *data* (section 1.2), and where it ends."""
    value = 0
    for at, byte in enumerate(data[start : start + _MAX_INTEGER], start):
        value |= (byte & 0x7F) << 7 * (at - start)
        if not byte & 0x80:
            return value, at + 1
    raise ValueError("an integer has no end")
