"""The first example: a small read-only disk.

It is written to be read.  The disk is a 100 MiB image with one empty Linux partition.  Only
its first sector, the partition table, has content; all else reads as zeroes and needs no
memory.  Nothing is ever changed, so it does not matter that each worker has its own copy.
"""

import struct

from nbdfork.plugin import Needs, Plugin

SECTOR = 512
DISK_SIZE = 100 * 1024 * 1024
PARTITION_START = 2048  # in sectors; 1 MiB, where partitioning tools put it
LINUX = 0x83


def partition_table() -> bytes:
    """Return a master boot record with one partition that reaches to the end of the disk.

    An entry is: status, 3 bytes of CHS address, type, 3 bytes of CHS address, first sector,
    number of sectors.  The CHS addresses say "see the sector numbers instead".
    """
    use_lba = b"\xfe\xff\xff"
    length = DISK_SIZE // SECTOR - PARTITION_START
    entry = struct.pack("<B3sB3sII", 0, use_lba, LINUX, use_lba, PARTITION_START, length)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


class Example1(Plugin):
    """an example: a read-only 100 MiB disk with one empty partition"""

    first_sector = partition_table()

    def needs(self) -> Needs:
        return Needs()  # no files, no network: only what a process has anyway

    def get_size(self) -> int:
        return DISK_SIZE

    def can_multi_conn(self) -> bool:
        return True  # nothing changes, so all clients see the same

    def pread(self, count: int, offset: int) -> bytes:
        return self.first_sector[offset : offset + count].ljust(count, b"\0")
