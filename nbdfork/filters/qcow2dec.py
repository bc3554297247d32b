"""The qcow2dec filter: serve what is in a qcow2 image, read-only.

The image is of version 2 or 3, and all by itself: without a backing file, encryption, an external
data file or extended L2 entries (docs/interop/qcow2.rst of qemu has the format).
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from nbdfork.filters._blocks import damaged, refused
from nbdfork.filters._source import Source
from nbdfork.filters.zstd import codec_library
from nbdfork.plugin import (
    HOLE,
    ZERO,
    Buffer,
    ConfigError,
    Export,
    Extent,
    Filter,
    Needs,
    Support,
)

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_MORE = struct.Struct(">QQQIIB")  # of version 3: features, the order of refcounts, length, codec

_DIRTY, _CORRUPT, _EXTERNAL, _CODEC, _EXTENDED = (1 << bit for bit in range(5))
_REFUSED = {
    _CORRUPT: "it is marked as corrupt: repair it with qemu-img check -r all",
    _EXTERNAL: "its data are in another file",
    _EXTENDED: "it has extended L2 entries",
}

_PLACE = (1 << 56) - 512  # the bits of the place of a table or a cluster
_COMPRESSED = 1 << 62
_READS_ZERO = 1 << 0
_MOST_L1 = 32 * 1024 * 1024  # bytes, as in qemu
_SECTOR = 512


class Qcow2Dec(Filter):
    """serve what is in a qcow2 image"""

    opens_read_only = True

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        name = f"export {export_name!r}" if export_name else "the disk below"
        source = Source(next, name)
        return Qcow2Export(source, _read_header(source))


class Header(NamedTuple):
    """What a header says, in bytes; *unpack* decodes a compressed cluster."""

    size: int
    cluster_bits: int
    l1_place: int
    l1_entries: int
    unpack: Callable[[bytes, int], bytes]


def _read_header(source: Source) -> Header:
    """Return the header.  Raises OSError with EINVAL for an image that cannot be served."""
    data = source.pread(_HEADER.size + _MORE.size, 0)
    if not data.startswith(_MAGIC) or len(data) < _HEADER.size:
        raise refused(source, f"this is no qcow2 image: it begins with {data[:4].hex(' ')}")
    fields = _HEADER.unpack_from(data)
    _, version, backing, _, bits, size, crypt, l1_entries, l1_place = fields[:9]
    for is_so, text in (
        (version not in (2, 3), f"it is of version {version}: only 2 and 3 are known"),
        (backing, "it has a backing file: convert it with qemu-img, or rebase it"),
        (crypt, "it is encrypted"),
    ):
        if is_so:
            raise refused(source, f"the image cannot be served: {text}")
    if not 9 <= bits <= 21 or size > 2**63 - 1:
        raise refused(
            source, f"clusters of 2^{bits} bytes, a disk of {size}: the header is damaged"
        )
    needed = -(-size // (1 << (2 * bits - 3)))
    if not needed <= l1_entries <= _MOST_L1 // 8:
        raise refused(source, f"an L1 table of {l1_entries} entries: the header is damaged")
    more = _MORE.unpack_from(data, _HEADER.size) if version == 3 else ()
    return Header(size, bits, l1_place, needed, _codec(source, _features(source, *more)))


def _features(
    source: Source,
    features: int = 0,
    _compatible: int = 0,
    _autoclear: int = 0,
    _order: int = 0,
    length: int = 0,
    codec: int = 0,
) -> int:
    """Return the number of the codec.  Raises OSError for a feature that is not known here."""
    for bit, text in _REFUSED.items():
        if features & bit:
            raise refused(source, f"the image cannot be served: {text}")
    if unknown := features & ~(_DIRTY | _CODEC):
        raise refused(source, f"the image has features that are unknown: {unknown:#x}")
    return codec if features & _CODEC and length > 104 else 0


def _codec(source: Source, codec: int) -> Callable[[bytes, int], bytes]:
    if codec == 0:
        return lambda data, size: zlib.decompressobj(-12).decompress(data, size)
    if codec == 1:
        try:
            zstd = codec_library()
        except ConfigError as error:
            raise refused(source, f"it is compressed with zstd: {error}") from None
        return lambda data, size: bytes(zstd.ZstdDecompressor().decompress(data, size))
    raise refused(source, f"it is compressed in a way that is unknown: {codec}")


class Qcow2Export(Export):
    """The disk in the image *source*."""

    def __init__(self, source: Source, header: Header) -> None:
        self._source = source
        self._header = header
        self._cluster = 1 << header.cluster_bits
        count = header.l1_entries
        table = source.pread(8 * count, header.l1_place)
        if len(table) < 8 * count:
            raise refused(source, "the image is cut off in its L1 table")
        self._l1 = struct.unpack(f">{count}Q", table)
        self._l2_table = lru_cache(maxsize=64)(self._read_l2_table)
        self._unpacked = lru_cache(maxsize=8)(self._unpack)

    def get_size(self) -> int:
        return self._header.size

    def can_multi_conn(self) -> bool:
        return True  # nobody can write

    def can_cache(self) -> Support:
        return Support.EMULATE

    def is_rotational(self) -> bool:
        return self._source.next.is_rotational()

    def description(self) -> str:
        return self._source.next.description()

    def pread(self, count: int, offset: int) -> Buffer:
        parts = [self._read(*run) for run in self._runs(count, offset)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        for entry, length, start, _ in self._runs(count, offset):
            yield Extent(start, length, _type(entry))

    def close(self) -> None:
        self._source.next.close()

    def _runs(self, count: int, offset: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (L2 entry, length, offset, offset in the cluster) of what is in one piece.

        Clusters that follow each other in the image as well are one.
        """
        end = offset + count
        while offset < end:
            inside = offset & (self._cluster - 1)
            entry = self._entry(offset)
            length = self._cluster - inside
            while offset + length < end and self._follows(entry, inside + length, offset + length):
                length += self._cluster
            length = min(length, end - offset)
            yield entry, length, offset, inside
            offset += length

    def _follows(self, entry: int, distance: int, offset: int) -> bool:
        """Return whether the cluster at *offset* goes on where one with *entry* ends."""
        following = self._entry(offset)
        if _type(entry):
            return _type(following) == _type(entry)
        if (entry | following) & _COMPRESSED or _type(following):
            return False
        return following & _PLACE == (entry & _PLACE) + distance

    def _entry(self, offset: int) -> int:
        bits = self._header.cluster_bits
        l1 = self._l1[offset >> (2 * bits - 3)] & _PLACE
        if not l1:
            return 0
        return self._l2_table(l1)[offset >> bits & (1 << (bits - 3)) - 1]

    def _read_l2_table(self, place: int) -> tuple[int, ...]:
        data = self._source.pread(self._cluster, place)
        if len(data) < self._cluster or place % self._cluster:
            raise damaged(self._source, f"there is no L2 table at byte {place}")
        return struct.unpack(f">{self._cluster // 8}Q", data)

    def _read(self, entry: int, count: int, offset: int, inside: int) -> Buffer:
        if _type(entry):
            return bytes(count)
        if entry & _COMPRESSED:
            return memoryview(self._unpacked(entry))[inside : inside + count]
        place = entry & _PLACE
        data = self._source.pread(count, place + inside)
        if place % self._cluster:
            raise damaged(self._source, f"there is no cluster at byte {place}")
        return data if len(data) == count else data.ljust(count, b"\0")  # the file may be shorter

    def _unpack(self, entry: int) -> bytes:
        """Return what is in a compressed cluster."""
        shift = 62 - (self._header.cluster_bits - 8)
        place = entry & (1 << shift) - 1
        sectors = (entry >> shift & (1 << (self._header.cluster_bits - 8)) - 1) + 1
        packed = self._source.pread(sectors * _SECTOR - place % _SECTOR, place)
        try:
            data = self._header.unpack(packed, self._cluster)
        except Exception as error:  # whatever the library raises
            where = f"damaged data in the compressed cluster at byte {place}"
            raise damaged(self._source, f"{where}: {error}") from error
        if len(data) != self._cluster:
            raise damaged(self._source, f"the compressed cluster at byte {place} is too short")
        return data


def _type(entry: int) -> int:
    """Return the type of the extent of a cluster."""
    if entry & _COMPRESSED:
        return 0
    if entry & _READS_ZERO:
        return ZERO if entry & _PLACE else HOLE | ZERO
    return 0 if entry & _PLACE else HOLE | ZERO
