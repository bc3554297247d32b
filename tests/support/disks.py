"""Disks in this process that remember what they were asked, and filters over them."""

from collections.abc import Iterator, Sequence

from nbdfork.backend import load
from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.exports import Exports
from nbdfork.backend.gate import Gate
from nbdfork.backend.life import Life
from nbdfork.plugin import (
    HOLE,
    ZERO,
    BlockSize,
    Buffer,
    Extent,
    Filter,
    Plugin,
)
from tests.support.noise import noise

KIB = 1024

MIB = 1024 * KIB

BLOCK = 4 * KIB

SIZE = 5 * BLOCK + 777  # so that the last block is a short one


class Disk(Plugin):
    """a disk in memory that remembers what it was asked"""

    def __init__(self, content: bytes, minimum: int = 1) -> None:
        super().__init__()
        self.content = bytearray(content)
        self.minimum = minimum
        self.asked: list[str] = []

    def get_size(self) -> int:
        return len(self.content)

    def block_size(self) -> BlockSize:
        return BlockSize(self.minimum, 4096, 64 * KIB)

    def pread(self, count: int, offset: int) -> Buffer:
        self._check("pread", count, offset)
        return bytes(self.content[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._check("pwrite", len(data), offset)
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.asked.append("flush")

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._check("trim", count, offset)
        self.content[offset : offset + count] = bytes(count)

    def cache(self, count: int, offset: int) -> None:
        self._check("cache", count, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        """Tell of whole blocks, as a file system does."""
        self._check("extents", count, offset)
        for start in range(offset - offset % BLOCK, offset + count, BLOCK):
            is_zero = not any(self.content[start : start + BLOCK])
            yield Extent(start, BLOCK, HOLE | ZERO if is_zero else 0)

    def _check(self, name: str, count: int, offset: int) -> None:
        assert 0 < count <= len(self.content) - offset
        assert offset >= 0
        assert not (count | offset) % self.minimum
        self.asked.append(name)


class ZeroingDisk(Disk):
    """a disk in memory that zeroes by itself"""

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._check(f"zero flags={flags}", count, offset)
        self.content[offset : offset + count] = bytes(count)


class ReadOnlyDisk(Plugin):
    """a disk that can only be read"""

    def get_size(self) -> int:
        return SIZE

    def pread(self, count: int, offset: int) -> Buffer:
        return noise(SIZE)[offset : offset + count]


def layer(name: str) -> Layer:
    made = load.find(name, load.FILTER).plugin_class()
    assert isinstance(made, Filter)
    return Layer(name, made)


def chain(disk: Plugin, filters: str | Sequence[Layer], *arguments: str) -> Chain:
    """Put *filters*, layers or names with a blank between, before *disk*."""
    if isinstance(filters, str):
        filters = [layer(name) for name in filters.split()]
    made = Chain(Layer("disk", disk), filters)
    made.configure(arguments)
    Life(made).get_ready()
    return made


def exports(
    disk: Plugin, filters: str | Sequence[Layer], *arguments: str, read_only: bool = False
) -> Exports:
    return Exports(chain(disk, filters, *arguments), read_only=read_only)


def gate(disk: Plugin, filters: str, *arguments: str) -> Gate:
    return exports(disk, filters, *arguments).open("")
