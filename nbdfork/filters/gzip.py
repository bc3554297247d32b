"""The gzip filter: serve what is in gzip data.

Deflated data can only be decoded from the beginning, unless there are points where decoding can
resume: each needs the 32 KiB before it.  They are collected in the one pass over all of the data
that is made for the first client of a disk, and which also checks the members and finds where they
end and what is wrong with them.  What lies between two points is decoded at once: a block.

Only at the end is the size of the disk known, so when there are too many points, every other one is
dropped, and from then on they are twice as far apart.
"""

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from nbdfork.filters._blocks import (
    Block,
    Blocks,
    BlocksExport,
    Disk,
    damaged,
    lossy,
    size_with_loss,
)
from nbdfork.filters._decoded import Recorder, Share
from nbdfork.filters._deflate import RAW, WINDOW, Inflater, Point, library
from nbdfork.filters._frames import Codec, Frames, scan
from nbdfork.filters._source import Source
from nbdfork.filters._unpack import Facts, UnpackFilter, salvage_parameter, scratch_parameter
from nbdfork.plugin import Buffer, ConfigError, Parameter, parse

_SPACING = 1024 * 1024  # bytes of the disk between two points, at least
_LARGEST = 16 * 1024 * 1024  # bytes of the disk to decode at once, unless points are further apart
_KEEP = 16 * 1024 * 1024  # bytes of the disk that each client keeps, and two blocks at least
_BEST_RATIO = 1032  # of deflate
_READ = 128 * 1024
_TRAILER = 8  # bytes of a member's checksum and size
_FIELDS = 5  # of a point: as it is, but for the window, and where that is and how long
_MEMBER = b"\x1f\x8b\x08"  # RFC 1952, section 2.3


def index_size(text: str) -> int:
    """Parse the size of an index."""
    value = parse.size(text)
    if value < 32 * WINDOW:
        raise ValueError("an index takes at least 1M")
    return value


class Gzip(UnpackFilter):
    """serve what is in gzip data"""

    gzip_index_size = Parameter(
        index_size,
        default=64 * 1024 * 1024,
        metavar="SIZE",
        help="the most that the index may take",
    )
    gzip_salvage = salvage_parameter()
    gzip_scratch = scratch_parameter()

    def __init__(self, salvage: str = "gzip-salvage", **parameters: Any) -> None:
        """*salvage* is what users know the parameter as that messages name."""
        super().__init__(**parameters)
        self._salvage = salvage

    def get_ready(self) -> None:
        try:
            library()
        except OSError as error:
            raise ConfigError(f"gzip needs zlib: {error} (Debian: zlib1g)") from None
        super().get_ready()

    def scratch(self) -> int:
        return self.gzip_scratch

    def learn(self, source: Source, recorder: Recorder) -> tuple[Disk, bytes, list[bytes]]:
        pass_ = Pass(self.gzip_index_size // WINDOW)
        codec = Codec(
            "gzip",
            pass_.new,
            (zlib.error,),
            "incorrect",
            _begins,
            takes_garbage=True,
            salvage=(self._salvage, self.gzip_salvage),
            step=_READ,
        )
        frames = scan(source, codec, None, recorder.write)
        points = [point for point in pass_.points if point.offset < frames.size]
        size = _size_with_loss(source, frames) if frames.damage else frames.size
        blocks = _blocks(points, frames.size, frames.end, pass_.spacing)
        disk = lossy(source, Blocks(blocks), size, frames.damage)
        return disk, Points.dump(points, frames.end), [point.window for point in points]

    def serve(self, source: Source, disk: Disk, share: Share, facts: Facts) -> BlocksExport:
        largest = max((block.size for block in disk.blocks), default=0)
        return GzipExport(source, disk, share, max(_KEEP, 2 * largest), Points(facts))


def _begins(head: bytes) -> bool:
    return head.startswith(_MEMBER)


class Pass:
    """A decompressor of one member after another that collects up to *most* points on the way.

    They are at least *spacing* bytes of the disk apart.
    """

    def __init__(self, most: int) -> None:
        self.points: list[Point] = []
        self.spacing = _SPACING
        self._most = most
        self._inflater = Inflater()
        self._offset = self._place = 0  # where the member begins, on the disk and in the source

    def new(self) -> "Pass":
        """Begin with the next member."""
        self._offset += self._inflater.given
        self._place += self._inflater.taken
        self._inflater.reset()
        return self

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        return self._inflater.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return up to *max_length* bytes."""
        inflater = self._inflater
        wanted = self.points[-1].offset + self.spacing if self.points else 0  # the next point
        left = wanted - self._offset - inflater.given
        if left > 0:
            return inflater.decompress(data, left if max_length < 0 else min(left, max_length))
        output = inflater.to_next_point(data, max_length)
        if inflater.is_at_point():
            self.points.append(inflater.point(self._offset, self._place))
            if len(self.points) > self._most:
                self.points = self.points[::2]
                self.spacing *= 2
        return output


def _blocks(points: list[Point], size: int, end: int, spacing: int) -> Iterator[Block]:
    """Yield the blocks of a disk of *size* bytes in a source that ends at *end*: what is between
    *points*.

    What is far from a point to the next makes several blocks.
    """
    most = max(_LARGEST, 2 * spacing)
    for point, following in pairwise([*points, Point(size, end, 0, b"")]):
        length = following.place - point.place
        for start in range(point.offset, following.offset, most):
            count = min(most, following.offset - start)
            yield Block(start, count, point.place, length)


class Points:
    """The points of a disk; their windows are read when they are needed.

    The source ends at *end*.
    """

    def __init__(self, facts: Facts) -> None:
        numbers = array("Q")
        numbers.frombytes(facts.small)
        self.end = numbers.pop()
        self._numbers = numbers
        self._offsets = numbers[::_FIELDS]
        self._read = facts.read

    @classmethod
    def dump(cls, points: list[Point], end: int) -> bytes:
        """Return what there is to be known of *points*, but for their windows, as bytes."""
        numbers = array("Q")
        start = 0
        for offset, place, bits, window in points:
            numbers.extend((offset, place, bits, start, len(window)))
            start += len(window)
        numbers.append(end)
        return numbers.tobytes()

    def before(self, offset: int) -> Point:
        """Return the last point that is not after *offset*."""
        at = (bisect_right(self._offsets, offset) - 1) * _FIELDS
        offset, place, bits, start, length = self._numbers[at : at + _FIELDS]
        return Point(offset, place, bits, self._read(length, start))


class GzipExport(BlocksExport):
    """The *disk* of which each block is decoded from one of the *points* on."""

    def __init__(
        self, source: Source, disk: Disk, share: Share, capacity: int, points: Points
    ) -> None:
        super().__init__(source, disk, share, capacity, "gzip")
        self._points = points

    def decode(self, block: Block) -> Buffer:
        point = self._points.before(block.offset)
        data = bytearray(block.size)  # at once: to grow would take more
        done = 0
        content = Content(self.source, self._points.end, point)
        try:
            content.skip(block.offset - point.offset)
            while done < block.size:
                part = content.read(block.size - done)
                data[done : done + len(part)] = part
                done += len(part)
        except (zlib.error, EOFError) as error:
            where = f"damaged gzip data at or after byte {block.place}"
            raise damaged(self.source, f"{where}: {error}") from error
        return data


class Content:
    """What is in *source* from *point* on, through any number of members, up to byte *end*."""

    def __init__(self, source: Source, end: int, point: Point) -> None:
        self._source = source.limited(end)
        self._next = point.place  # to be read
        self._inflater = Inflater(RAW)
        before = source.pread(1, point.place - 1) if point.bits else b""
        self._inflater.resume(point, before)
        self._trailer = _TRAILER  # what follows raw data; zlib itself reads those of whole members

    def skip(self, count: int) -> None:
        """Go on by *count* bytes."""
        while count:
            count -= len(self.read(count))

    def read(self, count: int) -> bytes:
        """Return some bytes, up to *count*, or none yet.

        Raises EOFError if there are no more, zlib.error for what is damaged.
        """
        data = b""
        if self._inflater.eof:
            data = self._inflater.unused_data
            while len(data) <= self._trailer:
                data += self._more()
            data = data[self._trailer :]
            self._trailer = 0
            self._inflater.reset()
        elif self._inflater.needs_input:
            data = self._more()
        return self._inflater.decompress(data, count)

    def _more(self) -> bytes:
        data = self._source.pread(_READ, self._next)
        if not data:
            raise EOFError("they end too early")
        self._next += len(data)
        return data


def _size_in_trailer(source: Source) -> int:
    """Return what the last member says is its size modulo 2^32 (RFC 1952, ISIZE)."""
    return int.from_bytes(source.pread(4, source.end - 4), "little")


def _size_with_loss(source: Source, frames: Frames) -> int:
    """Return the size of a disk of which only the size of *frames* can be decoded.

    The damage may be in a member that has its trailer, and then that tells; or not.
    """
    good = frames.size
    size = frames.blocks[-1].offset + _size_in_trailer(source)
    while size <= good:
        size += 2**32
    return size if size - good <= _BEST_RATIO * (source.end - frames.end) else size_with_loss(good)
