"""The FAT32 file system: where everything goes, and the bytes that say so.

It knows nothing about the content of files.  The clusters of each file and directory are
consecutive, so the tables are computed from where they begin and end, and need no memory.  The
structures are those of Microsoft's "FAT: General Overview of On-Disk Format", version 1.03.
"""

import array
import bisect
import struct
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from .names import Name

SECTOR = 512
RESERVED = 32
"""The number of sectors before the tables."""

FIRST_CLUSTER = 2
MIN_CLUSTERS = 65525 + 16
"""With fewer it would be FAT16; the specification advises to keep a distance from the limit."""

MAX_FILE_SIZE = 2**32 - 1
MAX_DIRECTORY_SIZE = 65536 * 32

ENTRY = 32
"""The size of a directory entry in bytes."""

TABLES = 2
ROOT = 0
"""The cluster that ".." has for the root directory, wherever that is."""

_END_OF_CHAIN = 0x0FFFFFFF
_HARD_DISK = 0xF8
_FSINFO_AT, _BACKUP_AT = 1, 6
_VOLUME_LABEL, _DIRECTORY, _ARCHIVE, _LONG_NAME = 0x08, 0x10, 0x20, 0x0F
_LAST_LONG_ENTRY = 0x40
_PER_LONG_ENTRY = 13

_FIRST_DAY, _LAST_DAY = 315619200, 4354646400
"""1980-01-02 and 2107-12-30, in seconds since 1970: FAT can represent them in any time zone."""

CLUSTER_SIZES = {1: 260 << 20, 8: 8 << 30, 16: 16 << 30, 32: 32 << 30, 64: 1 << 63}
"""Sectors per cluster, and the largest disk in bytes that has them (the specification's table)."""


class Geometry(NamedTuple):
    """The numbers that determine where everything is; *hidden* is where the partition starts."""

    sectors_per_cluster: int
    clusters: int
    hidden: int

    @property
    def cluster(self) -> int:
        """The size of a cluster in bytes."""
        return self.sectors_per_cluster * SECTOR

    @property
    def table_sectors(self) -> int:
        """The size of one of the tables in sectors."""
        return -(-(self.clusters + FIRST_CLUSTER) * 4 // SECTOR)

    def clusters_for(self, size: int) -> int:
        """Return the number of clusters for *size* bytes."""
        return -(-size // self.cluster)

    @property
    def sectors(self) -> int:
        """The size of the file system in sectors."""
        data = self.clusters * self.sectors_per_cluster
        return RESERVED + TABLES * self.table_sectors + data


def sectors_per_cluster(sectors: int) -> int:
    """Return the sectors per cluster of a file system of so many sectors."""
    return next(found for found, most in CLUSTER_SIZES.items() if sectors * SECTOR <= most)


def largest(sectors: int, hidden: int) -> Geometry:
    """Return the largest geometry that fits into *sectors*; it may have no clusters."""
    per_cluster = sectors_per_cluster(sectors)
    # A cluster takes its own sectors and 4 bytes in each table.
    room = (sectors - RESERVED) * SECTOR - TABLES * FIRST_CLUSTER * 4
    clusters = max(room // (per_cluster * SECTOR + TABLES * 4), 0)
    geometry = Geometry(per_cluster, clusters, hidden)
    while geometry.sectors > sectors and geometry.clusters:  # tables are rounded up
        geometry = geometry._replace(clusters=geometry.clusters - 1)
    return geometry


def boot_area(geometry: Geometry, used: int, label: bytes, serial: int) -> bytes:
    """Return the reserved sectors: the boot sector, FSInfo, and their backups."""
    boot = struct.pack(
        "<3s8sHBHBHHBHHHIIIHHIHH12xBxBI11s8s",
        *(b"\xeb\x58\x90", b"NBDFORK ", SECTOR, geometry.sectors_per_cluster, RESERVED),
        *(TABLES, 0, 0, _HARD_DISK, 0, 63, 255, geometry.hidden, geometry.sectors),
        *(geometry.table_sectors, 0, 0, FIRST_CLUSTER, _FSINFO_AT, _BACKUP_AT),
        *(0x80, 0x29, serial, label, b"FAT32   "),
    )
    free = geometry.clusters - used
    fsinfo = struct.pack(
        "<4s480x4sII12xI", b"RRaA", b"rrAa", free, FIRST_CLUSTER + used, 0xAA550000
    )
    both = boot.ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + fsinfo
    first = both.ljust(_BACKUP_AT * SECTOR, b"\0")
    return (first + both).ljust(RESERVED * SECTOR, b"\0")


class Table:
    """The file allocation table, of which any part can be computed.

    *ends*: for each file and directory in order, the cluster after its last one.  Together they are
    all clusters in use.
    """

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = ends
        self.used_size = ends[-1] * 4

    def read(self, count: int, offset: int) -> bytes:
        """Return *count* bytes from *offset*."""
        first, last = offset // 4, -(-(offset + count) // 4)
        used = max(min(last, self._ends[-1]), first)
        entries = array.array("I", range(first + 1, used + 1))  # each cluster points to the next
        low = bisect.bisect_right(self._ends, first)
        for end in self._ends[low : bisect.bisect_right(self._ends, used)]:
            entries[end - 1 - first] = _END_OF_CHAIN
        for number, entry in enumerate((0x0FFFFF00 | _HARD_DISK, _END_OF_CHAIN)):
            if first <= number < last:
                entries[number - first] = entry
        if sys.byteorder == "big":
            entries.byteswap()
        data = entries.tobytes().ljust(4 * (last - first), b"\0")
        skip = offset - first * 4
        return data[skip : skip + count]


# -- directories ------------------------------------------------------------------------------


def entry_count(name: Name) -> int:
    """Return the number of directory entries for a file of this name."""
    return 1 + -(-len(name.long.encode("utf-16-le")) // (2 * _PER_LONG_ENTRY))


def label_entry(label: bytes, modified: float) -> bytes:
    """Return the entry of the volume label."""
    return _entry(label, _VOLUME_LABEL, 0, 0, modified)


def dot_entries(cluster: int, parent: int, modified: float) -> bytes:
    """Return the first entries of a directory; *parent* is 0 for the root directory."""
    return _entry(b".".ljust(11), _DIRECTORY, cluster, 0, modified) + _entry(
        b"..".ljust(11), _DIRECTORY, parent, 0, modified
    )


def file_entries(name: Name, cluster: int, size: int | None, modified: float) -> bytes:
    """Return the entries of a file, or of a directory if *size* is None."""
    attribute = _DIRECTORY if size is None else _ARCHIVE
    return _long_name(name) + _entry(name.short, attribute, cluster, size or 0, modified)


def _entry(short: bytes, attribute: int, cluster: int, size: int, modified: float) -> bytes:
    date, clock = _date_and_time(modified)
    words = (clock, date, date, cluster >> 16, clock, date, cluster & 0xFFFF)
    return struct.pack("<11sB2x7HI", short, attribute, *words, size)


def _date_and_time(seconds: float) -> tuple[int, int]:
    """Return date and local time in FAT's form: since 1980, in steps of two seconds."""
    now = time.localtime(min(max(seconds, _FIRST_DAY), _LAST_DAY))
    return (
        now.tm_year - 1980 << 9 | now.tm_mon << 5 | now.tm_mday,
        now.tm_hour << 11 | now.tm_min << 5 | min(now.tm_sec, 59) // 2,
    )


def _long_name(name: Name) -> bytes:
    """Return the entries of the long name; they come before the file's, last part first."""
    text = name.long.encode("utf-16-le")
    if not text:
        return b""
    size = 2 * _PER_LONG_ENTRY
    if len(text) % size:
        text = (text + b"\0\0").ljust(-(-len(text) // size) * size, b"\xff")
    checksum = 0
    for byte in name.short:
        checksum = ((checksum & 1) << 7 | checksum >> 1) + byte & 0xFF
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    entries = [
        struct.pack(
            "<B10sBxB12s2x4s", number, part[:10], _LONG_NAME, checksum, part[10:22], part[22:]
        )
        for number, part in enumerate(parts, 1)
    ]
    last = bytes([len(parts) | _LAST_LONG_ENTRY]) + entries[-1][1:]
    return b"".join([last, *reversed(entries[:-1])])
