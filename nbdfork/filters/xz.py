"""The xz filter: serve what is in xz data.

An xz file consists of streams, each of which ends with an index of its blocks, and the blocks can
be decoded independently.  So the file is read backwards from index to index, which is quick enough
to be done for each client.  To have a block decoded together with its check, a header and an index
are put around it that make it a file of its own.  The format:
https://tukaani.org/xz/xz-file-format.txt
"""

import itertools
import lzma
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from nbdfork.filters._blocks import (
    Block,
    BlocksExport,
    Disk,
    check_blocks,
    damaged,
    max_block,
    max_depth,
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


class Xz(UnpackFilter):
    """serve what is in xz data"""

    xz_max_block = Parameter(
        max_block, default=512 * 1024 * 1024, metavar="SIZE", help="the largest block to decode"
    )
    xz_max_depth = Parameter(
        max_depth, default=8, metavar="N", help="how many blocks each client keeps"
    )

    max_block_key = "xz-max-block"
    """What users know the parameter as."""

    def get_ready(self) -> None:
        _library()

    def unpack(self, next: Export, name: str) -> BlocksExport:
        source = Source(next, name)
        found = read_index(source)
        blocks = [block for block, _ in found]
        largest = check_blocks(
            source,
            blocks,
            self.max_block_key,
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
        super().__init__(source, disk, capacity)
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


def read_index(source: Source) -> list[tuple[Block, Check]]:
    """Return all blocks of the xz data in *source*.

    Raises OSError with EINVAL if they are not xz data, or have no index at the end.
    """
    if source.pread(len(_MAGIC), 0) != _MAGIC:
        raise refused(source, "these are not xz data")
    streams = []
    end = _without_padding(source, source.end)
    while end:
        try:
            start, stream = _read_stream(source, end)
        except (_library().XZError, ValueError) as error:
            raise refused(
                source,
                f"there is no xz index that ends at byte {end} ({error}): the data are truncated or"
                " damaged, or something follows them; xz -t tells, xz -dc gets what can be had",
            ) from error
        streams.append(stream)
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
    while end:
        tail = source.pread(min(end, _LOOK), max(0, end - _LOOK))
        zeroes = len(tail) - len(tail.rstrip(b"\0"))
        end -= zeroes // 4 * 4
        if zeroes < len(tail):
            break
    return end


def _read_stream(source: Source, end: int) -> tuple[int, list[tuple[Block, Check]]]:
    """Return the start of the stream that ends at *end*, and its blocks, not yet at their offsets.

    Raises XZError or ValueError for what is not a stream.
    """
    xz = _library()
    if end < 2 * _ENVELOPE:
        raise ValueError("it is too short")
    kind, length = xz.parse_xz_footer(source.pread(_ENVELOPE, end - _ENVELOPE))
    place = end - _ENVELOPE - length
    if place < _ENVELOPE:
        raise ValueError("the index does not fit")
    records = xz.parse_xz_index(source.pread(length, place))
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
