"""The partition filter: serve one partition of a disk, by the table on it, MBR or GPT.

The tables are read when a client connects, because only then there is a disk to read.
"""

import errno
import struct
from collections.abc import Iterator
from typing import NamedTuple

from nbdfork.filters._part import PartExport
from nbdfork.plugin import Export, Filter, Needs, Parameter, parse

_MBR_ENTRY = struct.Struct("<B3xB3xII")  # status, type, first sector, sectors
_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQ")  # type, name of its own, first and last sector

_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MOST_LOGICAL = 128  # a chain of logical partitions may be a circle
_MOST_ENTRIES = 4096


class Table(NamedTuple):
    """The partitions of a disk, each with its offset and length in bytes, by their numbers."""

    kind: str
    partitions: dict[int, tuple[int, int]]


def _sector_size(text: str) -> int:
    size = parse.size(text)
    if size not in (512, 4096):
        raise ValueError("expected 512 or 4096")
    return size


class Partition(Filter):
    """serve one partition of the disk"""

    partition = Parameter(
        parse.whole(1, _MOST_ENTRIES),
        required=True,
        metavar="N",
        help="which partition, counted from 1",
    )
    partition_sectorsize = Parameter(
        _sector_size, metavar="SIZE", help="512 or 4096; what the disk says if not given"
    )

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        minimum = next.block_size().minimum
        sector = self.partition_sectorsize or (4096 if minimum == 4096 else 512)
        table = _Reader(next, sector).table()
        if self.partition not in table.partitions:
            numbers = ", ".join(map(str, sorted(table.partitions))) or "none"
            raise OSError(
                errno.EINVAL,
                f"partition={self.partition}: the disk has {table.kind} with these partitions:"
                f" {numbers}",
            )
        offset, length = table.partitions[self.partition]
        return PartExport(next, offset, length, f"partition={self.partition}")


class _Reader:
    """Reads tables of *next*, of which a sector has *sector* bytes."""

    def __init__(self, next: Export, sector: int) -> None:
        self._next = next
        self._sector = sector
        self._minimum = next.block_size().minimum
        self._size = next.get_size()

    def table(self) -> Table:
        """Return the table.  Raises OSError with EINVAL, which tells what was found instead."""
        if self._size < 2 * self._sector:
            raise OSError(
                errno.EINVAL,
                f"the disk has only {self._size} bytes, too few for a table of partitions",
            )
        first = self._read(0, 1)
        header = self._read(1, 1)
        if header.startswith(b"EFI PART"):
            return Table("a GPT", dict(self._gpt(header)))
        if first[510:512] != b"\x55\xaa":
            raise OSError(errno.EINVAL, f"there is no table of partitions: {_guess(first)}")
        entries = [_MBR_ENTRY.unpack_from(first, 446 + 16 * number) for number in range(4)]
        if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
            raise OSError(
                errno.EINVAL,
                "the disk has an MBR that protects a GPT, but there is none at sector 1 of"
                f" {self._sector} bytes: try partition-sectorsize={4608 - self._sector}",
            )
        return Table("an MBR", dict(self._mbr(entries)))

    def _mbr(self, entries: list[tuple[int, ...]]) -> Iterator[tuple[int, tuple[int, int]]]:
        for number, (_, kind, start, count) in enumerate(entries, 1):
            if count and kind and kind not in _EXTENDED:
                yield number, (start * self._sector, count * self._sector)
        chain = next((start for _, kind, start, count in entries if kind in _EXTENDED and count), 0)
        yield from enumerate(self._logical(chain), 5)

    def _logical(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield the logical partitions of the extended one at the sector *first*."""
        place = first
        for _ in range(_MOST_LOGICAL if first else 0):
            if (place + 1) * self._sector > self._size:
                return
            data = self._read(place, 1)
            if data[510:512] != b"\x55\xaa":
                return
            _, kind, start, count = _MBR_ENTRY.unpack_from(data, 446)
            if kind and count:
                yield (place + start) * self._sector, count * self._sector
            _, _, following, more = _MBR_ENTRY.unpack_from(data, 462)
            if not more:
                return
            place = first + following

    def _gpt(self, header: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
        fields = _GPT_HEADER.unpack_from(header)
        place, entries, size = fields[10:13]
        if size < 128 or size % 8 or entries > _MOST_ENTRIES or size > 4096:
            raise OSError(errno.EINVAL, f"the GPT has {entries} entries of {size} bytes: damaged")
        sectors = -(-entries * size // self._sector)
        if (place + sectors) * self._sector > self._size:
            raise OSError(errno.EINVAL, "the GPT is damaged: its entries are past the end")
        table = self._read(place, sectors) if sectors else b""
        for number in range(entries):
            kind, _, start, last = _GPT_ENTRY.unpack_from(table, number * size)
            if kind.strip(b"\0") and start <= last:
                length = (last - start + 1) * self._sector
                yield number + 1, (start * self._sector, length)

    def _read(self, sector: int, count: int) -> bytes:
        """Return *count* sectors, in whole blocks of the disk and pieces that it can read."""
        _, _, maximum = self._next.block_size()
        piece = max(self._minimum, maximum - maximum % self._minimum)
        start, end = sector * self._sector, (sector + count) * self._sector
        first = start - start % self._minimum
        last = min(-(-end // self._minimum) * self._minimum, self._size)
        parts = [
            bytes(self._next.pread(min(piece, last - place), place))
            for place in range(first, last, piece)
        ]
        return b"".join(parts)[start - first : end - first]


def _guess(sector: bytes) -> str:
    """Return what the beginning of a disk without a table may be."""
    known = {
        b"QFI\xfb": "this is a qcow2 image (--filter=qcow2dec reads it)",
        b"\x1f\x8b": "this is compressed with gzip (--filter=gzip reads it)",
        b"\xfd7zXZ\0": "this is compressed with xz (--filter=xz reads it)",
        b"BZh": "this is compressed with bzip2 (--filter=bzip2 reads it)",
        b"\x28\xb5\x2f\xfd": "this is compressed with zstd (--filter=zstd reads it)",
        b"LZIP": "this is compressed with lzip (--filter=lzip reads it)",
        b"LUKS\xba\xbe": "this is encrypted (--filter=luks reads it)",
        b"KDMV": "this is a VMDK image",
        b"conectix": "this is a VHD image",
        b"vhdxfile": "this is a VHDX image",
    }
    for magic, text in known.items():
        if sector.startswith(magic):
            return text + "; filters are given from the clients' side, so partition comes first"
    if sector[257:262] == b"ustar":
        return "this is a tar archive (--filter=tar reads it)"
    if not sector.strip(b"\0"):
        return "the first sector is all zeroes"
    return f"the first sector begins with {sector[:16].hex(' ')}"
