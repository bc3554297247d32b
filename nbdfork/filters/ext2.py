"""The ext2 filter: serve a file that is in a file system, ext2, ext3 or ext4, read-only.

The file system is read in its place and never changed, so one whose journal has not been replayed
is refused (Documentation/filesystems/ext4 of Linux has the format).
"""

import errno
import stat
import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from nbdfork.filters._blocks import damaged, refused
from nbdfork.filters._source import Source
from nbdfork.plugin import HOLE, ZERO, Buffer, Export, Extent, Filter, Needs, Parameter, Support

_SUPERBLOCK = 1024  # where it is, and how large
_MAGIC = 0xEF53
_ROOT = 2
_KNOWN = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000
_RECOVER = 0x4
_64BIT = 0x80
_EXTENTS = 0x80000  # flags of an inode
_UNREADABLE = {0x4: "compressed", 0x800: "encrypted", 0x10000000: "kept in its inode"}
_EXTENT_MAGIC = 0xF30A
_MOST_DEPTH = 5
_MOST_DIRECTORY = 256 * 1024 * 1024
_UNWRITTEN = 32768


def _file(text: str) -> str:
    if text != "exportname" and not text.startswith("/"):
        raise ValueError("expected an absolute path in the file system, or exportname")
    return text


class Ext2(Filter):
    """serve a file in an ext2, ext3 or ext4 file system"""

    opens_read_only = True

    ext2file = Parameter(
        _file, required=True, metavar="PATH|exportname", help="the file, or the client names it"
    )

    def needs(self) -> Needs:
        return Needs()

    def has_named_exports(self) -> bool:
        return self.ext2file == "exportname"

    def open(self, export_name: str, read_only: bool) -> Export:
        if self.ext2file != "exportname":
            return super().open(export_name, read_only)
        below = self.next.open(self.next.default_export(True), True)
        try:
            return _opened(below, export_name)
        except BaseException:
            below.close()
            raise

    def default_export(self, read_only: bool) -> str:
        return "" if self.ext2file == "exportname" else self.next.default_export(read_only)

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return _opened(next, self.ext2file)


def _opened(next: Export, path: str) -> Export:
    system = FileSystem(Source(next, "the file system"))
    return FileExport(system, system.find(path), path)


class Inode(NamedTuple):
    """What a file is: *blocks* are 60 bytes that say where."""

    mode: int
    size: int
    flags: int
    blocks: bytes


class FileSystem:
    """The file system in *source*."""

    def __init__(self, source: Source) -> None:
        self.source = source
        data = source.pread(_SUPERBLOCK, _SUPERBLOCK)
        if len(data) < _SUPERBLOCK or struct.unpack_from("<H", data, 0x38)[0] != _MAGIC:
            raise refused(source, "there is no ext2, ext3 or ext4")
        (features,) = struct.unpack_from("<I", data, 0x60)
        if features & _RECOVER:
            text = "its journal has to be replayed: unmount it, or run e2fsck"
            raise refused(source, text)
        if unknown := features & ~_KNOWN:
            raise refused(source, f"it has features that are unknown: {unknown:#x}")
        first, block_log = struct.unpack_from("<II", data, 0x14)
        (self._inodes_per_group,) = struct.unpack_from("<I", data, 0x28)
        (revision,) = struct.unpack_from("<I", data, 0x4C)
        (inode_size,) = struct.unpack_from("<H", data, 0x58)
        (descriptor_size,) = struct.unpack_from("<H", data, 0xFE)
        self._inodes = struct.unpack_from("<I", data, 0)[0]
        self._inode_size = inode_size if revision else 128
        self._descriptor_size = descriptor_size if features & _64BIT else 32
        sizes_fit = self._inode_size >= 128 and self._descriptor_size >= 32
        if block_log > 6 or not self._inodes_per_group or not sizes_fit:
            raise refused(source, "its superblock is damaged")
        self.block = 1024 << block_log
        self._descriptors = (first + 1) * self.block
        self.table = lru_cache(maxsize=64)(self._table)

    def _table(self, number: int) -> tuple[int, ...]:
        """Return the numbers in a block."""
        return struct.unpack(f"<{self.block // 4}I", self.read(number))

    def read(self, number: int) -> bytes:
        """Return a block."""
        data = self.source.pread(self.block, number * self.block)
        if len(data) < self.block:
            raise damaged(self.source, f"block {number} is past the end of the disk")
        return data

    def inode(self, number: int) -> Inode:
        """Return an inode by its number."""
        if not 0 < number <= self._inodes:
            raise damaged(self.source, f"there is no inode {number}")
        group, index = divmod(number - 1, self._inodes_per_group)
        place = self._descriptors + group * self._descriptor_size
        descriptor = self.source.pread(self._descriptor_size, place).ljust(64, b"\0")
        (table,) = struct.unpack_from("<I", descriptor, 8)
        if self._descriptor_size >= 64:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        data = self.source.pread(128, table * self.block + index * self._inode_size)
        if len(data) < 128:
            raise damaged(self.source, f"inode {number} is past the end of the disk")
        mode, low, flags, high = (
            struct.unpack_from(form, data, at)[0]
            for form, at in (("<H", 0), ("<I", 4), ("<I", 0x20), ("<I", 0x6C))
        )
        for flag, text in _UNREADABLE.items():
            if flags & flag:
                raise refused(self.source, f"inode {number} is {text}")
        return Inode(mode, low | high << 32, flags, data[0x28:0x64])

    def find(self, path: str) -> Inode:
        """Return the file at *path*.  Raises OSError."""
        inode = self.inode(_ROOT)
        for name in filter(None, path.split("/")):
            if not stat.S_ISDIR(inode.mode):
                raise OSError(errno.EINVAL, f"ext2file={path}: what contains {name!r} is no folder")
            number = self._look_up(inode, name.encode(errors="surrogateescape"))
            if number is None:
                raise OSError(errno.ENOENT, f"ext2file={path}: there is no {name!r}")
            inode = self.inode(number)
        if not stat.S_ISREG(inode.mode):
            raise OSError(errno.EINVAL, f"ext2file={path} is no regular file")
        return inode

    def _look_up(self, folder: Inode, wanted: bytes) -> int | None:
        """Return the number of the inode that is called *wanted*, or None."""
        blocks = Mapping(self, folder)
        for start in range(0, min(folder.size, _MOST_DIRECTORY), self.block):
            number, _ = blocks.at(start // self.block)
            data = self.read(number) if number else b""
            place = 0
            while place + 8 <= len(data):
                inode, length, size = struct.unpack_from("<IHB", data, place)
                if inode and data[place + 8 : place + 8 + size] == wanted:
                    return int(inode)
                if length < 8:
                    break
                place += length
        return None


class Mapping:
    """Where the blocks of the file *inode* are."""

    def __init__(self, system: FileSystem, inode: Inode) -> None:
        self._system = system
        self._inode = inode
        self._extents: list[tuple[int, int, int]] | None = None
        if inode.flags & _EXTENTS:
            self._extents = list(self._leaves(inode.blocks, _MOST_DEPTH))
            if any(one[0] + one[1] > two[0] for one, two in pairwise(self._extents)):
                raise damaged(system.source, "the extents of the file overlap")
            self._starts = [start for start, _, _ in self._extents]

    def _leaves(self, node: bytes, depth: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first block of the file, count, block; 0: zeroes) of a node and those below."""
        magic, count, _, level = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or level > depth or 12 * (count + 1) > len(node):
            raise damaged(self._system.source, "the extents of the file are damaged")
        for place in range(12, 12 * (count + 1), 12):
            if level:
                _, low, high = struct.unpack_from("<IIH", node, place)
                yield from self._leaves(self._system.read(low | high << 32), level - 1)
                continue
            start, length, high, low = struct.unpack_from("<IHHI", node, place)
            if length > _UNWRITTEN:
                yield start, length - _UNWRITTEN, 0
            else:
                yield start, length, low | high << 32

    def at(self, number: int) -> tuple[int, int]:
        """Return where a block of the file is, 0 for zeroes, and how many follow it there."""
        if self._extents is not None:
            return self._in_extents(self._extents, number)
        numbers = struct.unpack("<15I", self._inode.blocks)
        if number < 12:
            return _run(numbers[:12], number)
        each = self._system.block // 4
        number -= 12
        for level in (1, 2, 3):
            if number < each**level:
                return self._below(numbers[11 + level], level, number)
            number -= each**level
        raise damaged(self._system.source, "the file is larger than its blocks")

    def _in_extents(self, extents: list[tuple[int, int, int]], number: int) -> tuple[int, int]:
        place = bisect_right(self._starts, number) - 1
        if place >= 0:
            start, count, block = extents[place]
            if number < start + count:
                return (block + number - start if block else 0), start + count - number
        following = self._starts[place + 1] if place + 1 < len(extents) else number + 2**20
        return 0, following - number

    def _below(self, table: int, level: int, number: int) -> tuple[int, int]:
        each = self._system.block // 4
        while level:
            if not table:
                return 0, each**level - number
            level -= 1
            index, number = divmod(number, each**level)
            if not level:
                return _run(self._system.table(table), index)
            table = self._system.table(table)[index]
        raise AssertionError  # the last level returns


def _run(numbers: tuple[int, ...], first: int) -> tuple[int, int]:
    """Return the number at *first*, and how many follow that are each one more, or all 0."""
    start = numbers[first]
    count = 1
    while first + count < len(numbers):
        if numbers[first + count] != (start + count if start else 0):
            break
        count += 1
    return start, count


class FileExport(Export):
    """The file *inode* as a disk."""

    def __init__(self, system: FileSystem, inode: Inode, path: str) -> None:
        self._system = system
        self._size = inode.size
        self._blocks = Mapping(system, inode)
        self._path = path

    def get_size(self) -> int:
        return self._size

    def can_multi_conn(self) -> bool:
        return True  # nobody can write

    def can_cache(self) -> Support:
        return Support.EMULATE

    def is_rotational(self) -> bool:
        return self._system.source.next.is_rotational()

    def pread(self, count: int, offset: int) -> Buffer:
        parts = [self._read(place, length) for place, length, _ in self._runs(count, offset)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        for place, length, start in self._runs(count, offset):
            yield Extent(start, length, 0 if place else HOLE | ZERO)

    def close(self) -> None:
        self._system.source.next.close()

    def _runs(self, count: int, offset: int) -> Iterator[tuple[int, int, int]]:
        """Yield (place on the disk, 0 for zeroes, length, offset in the file) of each run."""
        end = offset + count
        size = self._system.block
        while offset < end:
            inside = offset % size
            block, blocks = self._blocks.at(offset // size)
            length = min(blocks * size - inside, end - offset)
            yield (block * size + inside if block else 0), length, offset
            offset += length

    def _read(self, place: int, count: int) -> Buffer:
        if not place:
            return bytes(count)
        data = self._system.source.pread(count, place)
        if len(data) < count:
            raise damaged(self._system.source, f"{self._path} is past the end of the disk")
        return data
