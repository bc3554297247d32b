"""The gzip filter: serve what is in gzip data.

Deflated data can only be decoded from the beginning, unless there is an index of points where
decoding can resume.  It is made for the first client of a disk, in two passes over all of the
data, and shared with the others.  What lies between two points is decoded at once: a block.

The library that makes the index accepts data that are truncated, or followed by something else, as
if nothing were wrong.  So the first pass checks the members, and finds where they end and what is
wrong with them; the second one makes the index of what is good.  Only then is the size of the disk
known, which decides how far apart the points are.
"""

import errno
import io
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple, NoReturn

from nbdfork.filters._blocks import (
    LIBRARY_ERRORS,
    Block,
    BlocksExport,
    Disk,
    Limit,
    SeekingExport,
    damaged,
    dump,
    load,
    lossy,
    size_with_loss,
)
from nbdfork.filters._frames import Codec, Frames, scan
from nbdfork.filters._source import IndexStore, Source
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import ConfigError, Export, Parameter, parse

_WINDOW = 32 * 1024  # of deflate: what a point of the index takes
_SPACING = 1024 * 1024  # bytes of the disk between two points, at least
_LARGEST = 16 * 1024 * 1024  # bytes of the disk to decode at once, unless points are further apart
_KEEP = 64 * 1024 * 1024  # bytes of the disk that each client keeps, and two blocks at least
_BEST_RATIO = 1032  # of deflate
_MEMBER_COST = 256  # bytes that a member takes while the index is made, or a little more
_PIECE = 1024 * 1024
_TRAILER = 8  # bytes of a member's checksum and size
_MEMBER = b"\x1f\x8b\x08"  # RFC 1952, section 2.3
_GZIP_FORMAT = 16 + 15  # zlib: a member with header and trailer, and the largest window


def index_size(text: str) -> int:
    """Parse the size of an index."""
    value = parse.size(text)
    if value < 32 * _WINDOW:
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

    def __init__(self, key: str = "gzip-index-size", **parameters: Any) -> None:
        """*key* is what users know the parameter as."""
        super().__init__(**parameters)
        self._key = key

    def get_ready(self) -> None:
        _library()
        self._store = IndexStore()

    def unpack(self, next: Export, name: str) -> BlocksExport:
        source = Source(next, name)
        size = self.gzip_index_size
        limit = Limit(self._key, size, size // _MEMBER_COST)
        points = size // _WINDOW
        known = Known.load(self._store.get(source, lambda: learn(source, points, limit).dump()))
        good = source.limited(known.end)
        largest = max((block.size for block in known.disk.blocks), default=0)
        capacity = max(_KEEP, 2 * largest)
        return SeekingExport(good, known.disk, capacity, "gzip", lambda: self._reopen(source, good))

    def _reopen(self, source: Source, good: Source) -> Any:
        """Return the library's file of what is *good* of *source*.

        It has a copy of the index; to keep another for each client would be a waste.
        """
        file = _open(good)
        known = Known.load(self._store.get(source, lambda: _has_changed(source)))
        file.import_index(fileobj=io.BytesIO(known.points))
        return file


class _Member:
    """A decompressor for a member, as `scan` wants it."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_FORMAT)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


_CODEC = Codec(
    "gzip",
    _Member,
    (zlib.error,),
    "incorrect",
    lambda head: head.startswith(_MEMBER),
    takes_garbage=True,
)


class Known(NamedTuple):
    """What was learnt of gzip data: the *disk*, their *end*, and the library's *points*."""

    disk: Disk
    end: int
    points: bytes

    def dump(self) -> bytes:
        """Return it as bytes."""
        return b"%b\n%d\n%b" % (dump(self.disk), self.end, self.points)

    @classmethod
    def load(cls, data: bytes) -> "Known":
        """Return what `dump` made *data* of."""
        disk, end, points = data.split(b"\n", 2)
        return cls(load(disk), int(end), points)


def learn(source: Source, most_points: int, limit: Limit) -> Known:
    """Make the index of *source*; it has about *most_points* at the most.

    Raises OSError if these are not gzip data, nothing can be decoded, or there are more members
    than the *limit* allows.
    """
    frames = scan(source, _CODEC, limit)
    spacing = max(_SPACING, -(-frames.size // most_points))
    # Reading fails where the trailer of a member, and nothing before it, has been cut off.
    for lost in range(_TRAILER + 2 if frames.damage else 1):
        good = source.limited(frames.end - lost)
        with closing(_open(good, spacing)) as file:
            try:
                points = _make_index(file)
            except LIBRARY_ERRORS as error:
                if good.failure is not None:
                    raise good.failure from error
                continue
            index = io.BytesIO()
            file.export_index(fileobj=index)
        readable = points[-1][0]
        size = _size_with_loss(source, frames, readable) if frames.damage else readable
        disk = lossy(source, list(_blocks(points, spacing)), size, frames.damage)
        return Known(disk, good.end, index.getvalue())
    raise damaged(source, "no index of the gzip data can be made")


def _make_index(file: Any) -> list[tuple[int, int]]:
    """Have *file* make its index, and return the points, where in the disk and in the source; the
    last is where both end.

    Raises one of `LIBRARY_ERRORS` if it is not able to, or cannot read on from the last point.
    """
    file.build_full_index()
    points = list(file.seek_points())
    file.raw.seek(points[-2][0] if len(points) > 1 else 0)
    buffer = bytearray(_PIECE)
    while file.raw.readinto(buffer):
        pass
    return points


def _blocks(points: list[tuple[int, int]], spacing: int) -> Iterator[Block]:
    """Yield the blocks of a disk: what is between *points* of the index.

    A small member has a point of its own, and a block has many of these; and what is far from a
    point to the next makes several blocks.
    """
    most = max(_LARGEST, 2 * spacing)
    last, _ = points[-1]
    first, place = points[0]
    for stop, end in points:
        if stop - first >= spacing or stop == last:
            for start in range(first, stop, most):
                yield Block(start, min(most, stop - start), place, end - place)
            first, place = stop, end


def _size_in_trailer(source: Source) -> int:
    """Return what the last member says is its size modulo 2^32 (RFC 1952, ISIZE)."""
    return int.from_bytes(source.pread(4, source.end - 4), "little")


def _size_with_loss(source: Source, frames: Frames, good: int) -> int:
    """Return the size of a disk of which only the first *good* bytes can be decoded.

    The damage may be in a member that has its trailer, and then that tells; or not.
    """
    size = frames.blocks[-1].offset + _size_in_trailer(source)
    while size <= good:
        size += 2**32
    return size if size - good <= _BEST_RATIO * (source.end - frames.end) else size_with_loss(good)


def _open(source: Source, spacing: int = _SPACING) -> Any:
    return _library().IndexedGzipFile(
        fileobj=source,
        skip_crc_check=True,  # it has been checked
        spacing=spacing,
        window_size=_WINDOW,
        readbuf_size=64 * 1024,
    )


def _has_changed(source: Source) -> NoReturn:
    raise OSError(errno.ESTALE, f"{source.name}: the gzip data have changed")


def _library() -> Any:
    try:
        import indexed_gzip
    except ImportError:
        raise ConfigError('gzip needs indexed_gzip: pip install "nbdfork[gzip]"') from None
    return indexed_gzip
