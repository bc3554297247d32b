"""Formats that are frames one after another: how to decode a frame, and how to find them all.

A frame (the formats have different words for it) can only be decoded from its first byte to its
last.  Nothing here knows any format: a `Codec` has what is special about one.  Decompressors have
the interface of those in the standard library.
"""

import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias

from nbdfork.filters._blocks import (
    Block,
    Blocks,
    BlocksExport,
    Disk,
    Limit,
    damaged,
    lossy,
    refused,
    size_with_loss,
)
from nbdfork.filters._decoded import Share
from nbdfork.filters._source import Source
from nbdfork.plugin import Buffer

log = logging.getLogger(__name__)

_STEP = 32 * 1024

_HEAD = 18  # more than a frame's header has in any of the formats
_READ = 4 * 1024 * 1024
_OUTPUT = 1024 * 1024

_MOST_ZEROES = 64 * 1024 * 1024
"""So much of what follows the last frame is looked at: a block device may be very large."""


Sink: TypeAlias = Callable[[bytes], None]
"""What takes the content of a disk from its beginning on."""


class Decompressor(Protocol):
    """What `bz2`, `lzma` and others like them have."""

    @property
    def eof(self) -> bool:
        """Whether the end of the frame has been reached."""

    @property
    def needs_input(self) -> bool:
        """Whether there can be no more output without more input."""

    @property
    def unused_data(self) -> bytes | None:
        """What came after the end of the frame."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return up to *max_length* bytes."""


def _no_limit(_: bytes) -> str:
    return ""


def _never(_: Decompressor) -> bool:
    return False


class Codec(NamedTuple):
    """A format: its *word*, a maker of decompressors and the *errors* they raise.

    *mismatch* is in the text of an error if it is the checksum of a frame that is wrong.  *begins*
    tells whether some bytes may be the beginning of a frame.  *takes_garbage*: the format's own
    program takes what follows the last frame for nothing, with a warning; otherwise it fails.
    *beyond* returns what is beyond a limit in a frame that begins with some bytes, or "".
    *may_end* tells whether the end of the data is a frame's end for a decompressor that has come
    there.  *salvage* is the parameter with which frames are served that are damaged or truncated,
    and whether it is given.  *step* is how many bytes of the source are decoded in one step: damage
    is located with this precision.
    """

    word: str
    new: Callable[[], Decompressor]
    errors: tuple[type[Exception], ...]
    mismatch: str
    begins: Callable[[bytes], bool]
    takes_garbage: bool = False
    beyond: Callable[[bytes], str] = _no_limit
    may_end: Callable[[Any], bool] = _never
    salvage: tuple[str, bool] = ("", False)
    step: int = _STEP

    def excess(self, head: bytes, place: int) -> str:
        """Return what is to be said if a frame that has this *head*, at byte *place*, is beyond a
        limit, or "".
        """
        beyond = self.beyond(head)
        return beyond and f"the {self.word} frame at byte {place} {beyond}"


class Frames(NamedTuple):
    """The frames of a source, up to its byte *end*; the last one is incomplete if there is
    *damage*.
    """

    blocks: Blocks
    end: int
    damage: str

    @property
    def size(self) -> int:
        """How many bytes of the disk they have."""
        last = self.blocks[-1]
        return last.offset + last.size

    def disk(self, source: Source) -> Disk:
        """Return the disk in *source* that is made of them."""
        blocks = Blocks(block for block in self.blocks if block.size)
        size = size_with_loss(self.size) if self.damage else self.size
        return lossy(source, blocks, size, self.damage)


def scan(source: Source, codec: Codec, limit: Limit | None, sink: Sink) -> Frames:
    """Decode all of *source* to find its frames; *sink* is given what they hold.

    What follows the last frame may be zeroes, as on a tape or a block device; anything else is
    damage, or as the format has it.  Raises OSError if there is no frame, nothing of the first can
    be decoded, or there are more than the *limit* allows.
    """
    blocks = Blocks()
    offset = place = 0
    damage = ""
    while place < source.end and not damage:
        head = source.pread_ahead(_HEAD, place)
        if not codec.begins(head):
            break
        if limit is not None:
            limit.check(source, len(blocks) + 1)
        if excess := codec.excess(head, place):
            raise refused(source, excess)
        block, damage = _scan_frame(source, codec, Block(offset, 0, place, 0), sink)
        if limit is None:
            blocks = Blocks()
        blocks.append(block)
        offset += block.size
        place += block.length
    if not blocks:
        raise refused(source, f"this is not {codec.word} data")
    if place < source.end and not damage:
        damage = _what_follows(source, codec, place)
    if damage and not offset:
        hint = codec.salvage[0] and f"{codec.salvage[0]}=true" in damage
        raise damaged(source, damage if hint else f"{damage}; nothing of it can be decoded")
    return Frames(blocks, place, damage)


def _what_follows(source: Source, codec: Codec, place: int) -> str:
    """Return what is wrong with what follows the last frame, from *place* on, or ""."""
    looked_at = min(source.end, place + _MOST_ZEROES)
    for start in range(place, looked_at, _READ):
        if any(source.pread(min(_READ, looked_at - start), start)):
            break
    else:
        if looked_at < source.end:
            text = "%s: ignoring what follows the zeroes after the data, from byte %d on"
            log.warning(text, source.name, looked_at)
        return ""
    if codec.takes_garbage:
        log.warning("%s: ignoring what follows the data at byte %d", source.name, place)
        return ""
    return f"what follows the {codec.word} data at byte {place} is neither a frame nor zeroes"


def _scan_frame(source: Source, codec: Codec, block: Block, sink: Sink) -> tuple[Block, str]:
    """Return the frame that begins where *block* does, and what is wrong with it, or "".

    If the frame cannot be decoded to its end, or its checksum is wrong, the block is empty, because
    any of its bytes may be the wrong ones.  To salvage it, in the first case, the block is what can
    be decoded of it.
    """
    decompressor = codec.new()
    size, place = 0, block.place
    damage = ""
    while not decompressor.eof:
        piece = source.pread_ahead(codec.step, place)
        if not piece and codec.may_end(decompressor):
            break
        if not piece:
            damage = f"the {codec.word} data are truncated: they end at byte {place}"
            break
        try:
            size += _output_of(decompressor, piece, sink)
        except codec.errors as error:
            if codec.mismatch in str(error):
                where = f"the {codec.word} data from byte {block.place} on"
                return block, f"the checksum of {where} is wrong"
            damage = f"damaged {codec.word} data at or before byte {place + len(piece)}: {error}"
            break
        place += len(piece)
    key, salvages = codec.salvage
    if damage and not salvages:
        hint = f"{key}=true serves what can be decoded before that, though nothing has checked it"
        return block, f"{damage} ({hint})"
    place -= len(decompressor.unused_data or b"") if not damage else 0
    return block._replace(size=size, length=place - block.place), damage


def _output_of(decompressor: Decompressor, piece: bytes, sink: Sink) -> int:
    """Return how many bytes come out when *piece* goes in."""
    size = 0
    while True:
        output = decompressor.decompress(piece, _OUTPUT)
        sink(output)
        size += len(output)
        if decompressor.eof or decompressor.needs_input:
            return size
        piece = b""


def pieces(source: Source, block: Block) -> Iterable[bytes]:
    """Yield what *block* is made of."""
    end = block.place + block.length
    for place in range(block.place, end, _READ):
        yield source.pread(min(_READ, end - place), place)


def unpack(
    decompressor: Decompressor,
    data: Iterable[bytes],
    size: int,
    whole: bool = True,
    may_end: Callable[[Decompressor], bool] = _never,
) -> bytearray:
    """Return the *size* bytes that a frame holds, or begins with if it is not *whole*.

    *may_end* is as in `Codec`.  Raises ValueError if it holds more or fewer, and whatever the
    decompressor raises.
    """
    out = bytearray()
    limit = size + 1 if whole else size  # one more, to notice data that should not be there
    for piece in data:
        out += decompressor.decompress(piece, limit - len(out))
        while not (decompressor.eof or decompressor.needs_input or len(out) >= limit):
            out += decompressor.decompress(b"", limit - len(out))
        if decompressor.eof or len(out) >= limit:
            break
    ended = not whole or decompressor.eof or may_end(decompressor)
    if len(out) != size or not ended:
        raise ValueError(f"it does not hold the {size} bytes that it should")
    return out


class FramesExport(BlocksExport):
    """A *disk* of which each block is a frame of *codec*."""

    def __init__(
        self, source: Source, disk: Disk, share: Share, capacity: int, codec: Codec
    ) -> None:
        super().__init__(source, disk, share, capacity, codec.word)
        self._codec = codec
        self._errors: tuple[type[Exception], ...] = (ValueError, *codec.errors)
        incomplete = disk.damage and codec.salvage[1]
        self._last = disk.blocks[-1] if incomplete else None

    def decode(self, block: Block) -> Buffer:
        codec = self._codec
        data = iter(pieces(self.source, block))
        first = next(data, b"")
        if excess := codec.excess(first[:_HEAD], block.place):
            raise damaged(self.source, excess)
        data = itertools.chain([first], data)
        whole = block != self._last
        try:
            return unpack(codec.new(), data, block.size, whole, codec.may_end)
        except self._errors as error:
            where = f"damaged {codec.word} data in the frame at byte {block.place}"
            raise damaged(self.source, f"{where}: {error}") from error
