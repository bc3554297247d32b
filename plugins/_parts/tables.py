"""Partition tables: where each partition goes on a disk, and the bytes that say so.

It knows nothing about files or clients.  An MBR has up to four partitions; further ones are in a
chain of extended boot records (EBR).  A GPT has any number, and there are two copies of it, one at
each end of the disk.
"""

import struct
import uuid
import zlib
from collections.abc import Sequence
from typing import NamedTuple

SECTOR = 512
PRIMARY_PARTITIONS = 4
MAX_MBR_SIZE = (2**32 - 1 - 10240) * SECTOR
"""The most bytes in up to four partitions, leaving room for padding, that an MBR is used for.

Its sector numbers have 32 bits."""

_EXTENDED = 0x0F
_PROTECTIVE = 0xEE
_ENTRY_SIZE = 128
_LEGACY_BOOTABLE = 1 << 2


class Partition(NamedTuple):
    """What is known about a partition before it has a place; sizes are in bytes."""

    name: str
    size: int
    alignment: int
    mbr_id: int
    type_guid: uuid.UUID
    guid: uuid.UUID

    @property
    def sectors(self) -> int:
        """The size in sectors, rounded up."""
        return -(-self.size // SECTOR)

    def place_after(self, sector: int) -> int:
        """Return the first sector from *sector* on at which the partition is aligned."""
        return _round_up(sector, self.alignment // SECTOR)


class Layout(NamedTuple):
    """Where everything is, in bytes: the size of the disk, the starts of the partitions, and the
    tables with their offsets.
    """

    size: int
    starts: list[int]
    tables: list[tuple[int, bytes]]


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


# -- MBR --------------------------------------------------------------------------------------


def mbr(partitions: Sequence[Partition]) -> Layout:
    """Lay out a disk with a master boot record.

    Raises OverflowError if it would have more sectors than 32 bits can number.
    """
    primary = len(partitions)
    if primary > PRIMARY_PARTITIONS:
        primary = PRIMARY_PARTITIONS - 1  # one entry is taken by the extended partition
    starts, records = [], []
    end = 1
    for number, partition in enumerate(partitions):
        if number >= primary:
            records.append(end)
            end += 1
        starts.append(partition.place_after(end))
        end = starts[-1] + partition.sectors
    if end >= 2**32:
        raise OverflowError(f"{end} sectors")
    entries = [
        _entry(partition.mbr_id, start, partition.sectors, bootable=start == starts[0])
        for partition, start in zip(partitions[:primary], starts[:primary], strict=True)
    ]
    if records:
        entries.append(_entry(_EXTENDED, records[0], end - records[0]))
    tables = [(0, _boot_record(entries))]
    tables += _extended_records(partitions[primary:], starts[primary:], records)
    return Layout(end * SECTOR, [start * SECTOR for start in starts], tables)


def _extended_records(
    partitions: Sequence[Partition], starts: Sequence[int], records: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Return the chain of EBRs at the sectors *records*, one in front of each partition.

    The first entry of an EBR is its partition, counted from this EBR.  The second is the next EBR
    together with its partition, counted from the first EBR.
    """
    tables = []
    for number, (partition, start, record) in enumerate(
        zip(partitions, starts, records, strict=True)
    ):
        entries = [_entry(partition.mbr_id, start - record, partition.sectors)]
        if number + 1 < len(records):
            following = records[number + 1]
            end = starts[number + 1] + partitions[number + 1].sectors
            entries.append(_entry(_EXTENDED, following - records[0], end - following))
        tables.append((record * SECTOR, _boot_record(entries)))
    return tables


def _boot_record(entries: Sequence[bytes]) -> bytes:
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def _entry(kind: int, start: int, sectors: int, bootable: bool = False) -> bytes:
    use_lba = b"\xfe\xff\xff"  # a CHS address that means "see the sector numbers"
    status = 0x80 if bootable else 0
    return struct.pack("<B3sB3sII", status, use_lba, kind, use_lba, start, sectors)


# -- GPT --------------------------------------------------------------------------------------


def gpt(partitions: Sequence[Partition]) -> Layout:
    """Lay out a disk with a GUID partition table."""
    slots = _round_up(len(partitions), 128)
    table_sectors = slots * _ENTRY_SIZE // SECTOR
    first_usable = end = 2 + table_sectors
    starts = []
    for partition in partitions:
        starts.append(partition.place_after(end))
        end = starts[-1] + partition.sectors
    last = end + table_sectors  # the last sector of the disk has the backup header

    entries = b"".join(map(_gpt_entry, range(len(partitions)), partitions, starts))
    entries = entries.ljust(slots * _ENTRY_SIZE, b"\0")
    disk_guid = uuid.uuid5(partitions[0].guid, "disk")

    def header(at: int, other: int, entries_at: int) -> bytes:
        usable = first_usable, end - 1
        return _gpt_header(at, other, usable, disk_guid, entries_at, slots, zlib.crc32(entries))

    protective = _boot_record([_entry(_PROTECTIVE, 1, min(last, 2**32 - 1))])
    tables = [
        (0, protective + header(1, last, 2) + entries),
        (end * SECTOR, entries + header(last, 1, end)),
    ]
    return Layout((last + 1) * SECTOR, [start * SECTOR for start in starts], tables)


def _gpt_entry(number: int, partition: Partition, start: int) -> bytes:
    return struct.pack(
        "<16s16sQQQ72s",
        partition.type_guid.bytes_le,
        partition.guid.bytes_le,
        start,
        start + partition.sectors - 1,
        _LEGACY_BOOTABLE if number == 0 else 0,
        partition.name.encode("utf-16-le", "replace"),
    )


def _gpt_header(
    at: int,
    other: int,
    usable: tuple[int, int],
    disk_guid: uuid.UUID,
    entries_at: int,
    slots: int,
    entries_crc: int,
) -> bytes:
    """Return the sector of a header, whose checksum is computed with zeroes in place of itself."""

    def pack(crc: int) -> bytes:
        return struct.pack(
            "<8sIIII4Q16sQIII4x",
            *(b"EFI PART", 0x10000, 96, crc, 0),
            *(at, other, *usable, disk_guid.bytes_le),
            *(entries_at, slots, _ENTRY_SIZE, entries_crc),
        )

    return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")
