"""A disk that is made of blocks, each decoded as a whole.

This is what the compressed formats have in common.  A table says which part of the disk is in
which part of the source.  A block is decoded when a client wants a byte of it, and kept until
other blocks push it out of the cache.  A damaged block fails the requests that need it, and no
others.  Nothing here knows any format.
"""

import errno
import io
import logging
import struct
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple, overload

from nbdfork.filters._decoded import Share
from nbdfork.filters._source import Source
from nbdfork.plugin import Buffer, Export, Extent, PartialError, Support, parse

log = logging.getLogger(__name__)


class Block(NamedTuple):
    """*size* bytes of the disk from *offset*, made of *length* bytes of the source from *place*."""

    offset: int
    size: int
    place: int
    length: int


class Blocks(Sequence[Block]):
    """Any number of blocks, each of which takes 32 bytes of memory."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        self._numbers = array("Q")
        for block in blocks:
            self.append(block)

    def append(self, block: Block) -> None:
        """Put *block* after the others."""
        self._numbers.extend(block)

    def offsets(self) -> "array[int]":
        """Return where each begins on the disk."""
        return self._numbers[:: len(Block._fields)]

    def dump(self) -> bytes:
        """Return them as bytes."""
        return self._numbers.tobytes()

    @classmethod
    def load(cls, data: bytes) -> "Blocks":
        """Return the blocks that `dump` made *data* of."""
        blocks = cls()
        blocks._numbers.frombytes(data)
        return blocks

    def __len__(self) -> int:
        return len(self._numbers) // len(Block._fields)

    @overload
    def __getitem__(self, at: int) -> Block: ...
    @overload
    def __getitem__(self, at: slice) -> "Blocks": ...
    def __getitem__(self, at: int | slice) -> "Block | Blocks":
        if isinstance(at, slice):
            return Blocks([self[number] for number in range(*at.indices(len(self)))])
        if not -len(self) <= at < len(self):
            raise IndexError("there are fewer blocks")
        start = at % len(self) * len(Block._fields)
        return Block(*self._numbers[start : start + len(Block._fields)])

    def __iter__(self) -> Iterator[Block]:
        numbers = iter(self._numbers)
        return map(Block._make, zip(*[numbers] * len(Block._fields), strict=True))


class Disk(NamedTuple):
    """The blocks of a disk, without a gap.

    If they end before its *size*, the rest is lost for the reason *damage*.
    """

    blocks: Blocks
    size: int
    damage: str = ""

    def dump(self, more: bytes = b"") -> bytes:
        """Return it as bytes, together with *more*."""
        damage = self.damage.encode(errors="surrogateescape")
        blocks = self.blocks.dump()
        return _DISK.pack(self.size, len(damage), len(blocks)) + damage + blocks + more

    @classmethod
    def load(cls, data: bytes) -> "tuple[Disk, bytes]":
        """Return what `dump` made *data* of."""
        size, first, second = _DISK.unpack_from(data)
        start = _DISK.size + first
        end = start + second
        damage = data[_DISK.size : start].decode(errors="surrogateescape")
        return cls(Blocks.load(data[start:end]), size, damage), data[end:]


_DISK = struct.Struct("<QQQ")  # its size, and the lengths of the damage and the blocks that follow


def lossy(source: Source, blocks: Blocks, size: int, damage: str) -> Disk:
    """Return the disk that is in *source*, and warn if there is *damage*."""
    if damage:
        good = sum(block.size for block in blocks)
        log.warning("%s: %s; only the first %d bytes can be read", source.name, damage, good)
    return Disk(blocks, size, damage)


def damaged(source: Source, text: str) -> OSError:
    """Return the error of a part that cannot be decoded."""
    return OSError(errno.EIO, f"{source.name}: {text}")


def refused(source: Source, text: str) -> OSError:
    """Return the error that refuses a disk when it is opened."""
    return OSError(errno.EINVAL, f"{source.name}: {text}")


def size_with_loss(good: int) -> int:
    """Return the size to show for a disk of which only the first *good* bytes are left, if its
    real size is unknown.

    The disk then ends in a sector that cannot be read, so that no client takes what is left for
    the whole.
    """
    return (-(-good // 512) + 1) * 512


def max_block(text: str) -> int:
    """Parse the size of the largest block that may be decoded."""
    value = parse.size(text)
    if not value:
        raise ValueError("no block has 0 bytes")
    return value


max_depth = parse.whole(1, 65536)
"""Parse how many blocks each client may keep."""


MAX_INDEX = 256 * 1024
"""How many blocks an index may have by default: each takes a client some 40 bytes."""

max_index = parse.whole(1, 2**32)
"""Parse how many blocks an index may have."""


class Limit(NamedTuple):
    """There may be *most* blocks because the parameter *key* is *value*."""

    key: str
    value: int
    most: int

    def check(self, source: Source, count: int) -> None:
        """Raise OSError with EINVAL if *count* blocks are too many."""
        if count > self.most:
            raise refused(
                source,
                f"there are more than {self.most} blocks, too many for {self.key}={self.value}:"
                f" compress it in larger ones, or raise {self.key}, which costs each client 40"
                " bytes a block",
            )


def check_blocks(source: Source, blocks: Sequence[Block], key: str, most: int, remedy: str) -> int:
    """Return the size of the largest of *blocks*.

    Raises OSError with EINVAL if it has more than *most* bytes, the value of the parameter *key*;
    *remedy* is what the user can do.
    """
    largest = max(blocks, key=lambda block: block.size, default=Block(0, 0, 0, 0))
    if largest.size > most:
        raise refused(
            source,
            f"the block at byte {largest.place} unpacks to {largest.size} bytes, more than"
            f" {key}={most}: {remedy}, or raise {key}, which costs each client that much memory",
        )
    return largest.size


class _Entry:
    """A block in the cache; *lock* is held while it is decoded."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.data: Buffer | None = None


class _Cache:
    """The most recently used blocks: up to *capacity* bytes, but always at least one block."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Block, _Entry] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, block: Block, decode: Callable[[Block], Buffer]) -> Buffer:
        """Return the data of *block*; if another thread is decoding it already, wait for that."""
        with self._lock:
            entry = self._entries.get(block) or self._make_room(block)
            self._entries.move_to_end(block)
        with entry.lock:
            if entry.data is None:
                entry.data = decode(block)
            return entry.data

    def _make_room(self, block: Block) -> _Entry:
        self._size += block.size
        while self._entries and self._size > self._capacity:
            oldest, _ = self._entries.popitem(last=False)
            self._size -= oldest.size
        self._entries[block] = entry = _Entry()
        return entry


class BlocksExport(Export, ABC):
    """The *disk* in *source*, with up to *capacity* bytes of decoded blocks kept, and some of them
    in the *share* of all workers.

    Of the facts of the export below, only what people are told of it, with the name of the
    *format*, and whether seeking is slow are passed on: the rest is about the compressed data.  A
    client that asks to cache a range gets its blocks decoded.
    """

    def __init__(
        self, source: Source, disk: Disk, share: Share, capacity: int, format: str
    ) -> None:
        self.source = source
        self._format = format
        self._disk = disk
        self._share = share
        self._offsets = disk.blocks.offsets()
        self._end = disk.blocks[-1].offset + disk.blocks[-1].size if disk.blocks else 0
        self._cache = _Cache(capacity)

    @abstractmethod
    def decode(self, block: Block) -> Buffer:
        """Return the whole data of *block*.  Several threads may call this at once.

        Raises OSError: EIO for data that are damaged, or what reading the source failed with.
        """

    def get_size(self) -> int:
        return self._disk.size

    def can_multi_conn(self) -> bool:
        return True  # nobody can write

    def can_cache(self) -> Support:
        return Support.EMULATE

    def is_rotational(self) -> bool:
        return self.source.next.is_rotational()

    def description(self) -> str:
        below = self.source.next.description()
        return below and f"expansion of {self._format}-compressed image: {below}"  # nbdkit's words

    def pread(self, count: int, offset: int) -> Buffer:
        parts: list[Buffer] = []
        position, end = offset, offset + count
        while position < end:
            try:
                part = self._read(end - position, position)
            except OSError as error:
                if not parts:
                    raise
                done = position - offset
                text = error.strerror or str(error)
                raise PartialError(error.errno or errno.EIO, text, done) from error
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read(self, count: int, offset: int) -> Buffer:
        """Return the first part of a range: what is kept of it, or what is in the next block."""
        if offset >= self._end:
            raise damaged(self.source, self._disk.damage)
        kept = self._share.read(min(count, self._end - offset), offset)
        if kept is not None:
            return kept
        block = self._disk.blocks[bisect_right(self._offsets, offset) - 1]
        inside = offset - block.offset
        return memoryview(self._cache.get(block, self._decode))[inside : inside + count]

    def can_extents(self) -> bool:
        return self._share.knows_zeroes()

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        good = min(offset + count, self._end)
        if offset < good:
            yield from self._share.extents(good - offset, offset)
        if good < offset + count:
            start = max(offset, self._end)
            yield Extent(start, offset + count - start, 0)

    def _decode(self, block: Block) -> Buffer:
        data = self.decode(block)
        self._share.keep(data, block.offset)
        return data

    def close(self) -> None:
        self.source.next.close()


LIBRARY_ERRORS = (OSError, RuntimeError, ValueError)
"""What libraries in C and C++ raise if they cannot decode data, or cannot read them."""


class SeekingExport(BlocksExport):
    """A *disk* whose content is read from a file object that a library makes of *source*.

    *open_file* makes that object; it is read without its buffer.  After an error it is dropped and
    made again, because it may have lost track of its position.
    """

    def __init__(
        self,
        source: Source,
        disk: Disk,
        share: Share,
        capacity: int,
        format: str,
        open_file: Callable[[], io.BufferedReader],
    ) -> None:
        super().__init__(source, disk, share, capacity, format)
        self._open_file = open_file
        self._file: io.BufferedReader | None = None
        self._lock = Lock()

    def decode(self, block: Block) -> Buffer:
        data = memoryview(bytearray(block.size))
        where = f"damaged data at or after byte {block.place}"
        with self._lock:
            if self._file is None:
                self._file = self._open_file()
            self.source.failure = None
            try:
                done = _read_file(self._file, data, block.offset)
            except LIBRARY_ERRORS as error:
                self._forget_file()
                raise self.source.failure or damaged(self.source, f"{where}: {error}") from error
        if done < block.size:
            raise damaged(self.source, where)
        return data

    def _forget_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._forget_file()
        super().close()


def _read_file(file: io.BufferedReader, data: memoryview, offset: int) -> int:
    """Fill *data* from *offset* of *file*; return how many bytes there were."""
    file.raw.seek(offset, io.SEEK_SET)
    done = 0
    while count := file.raw.readinto(data[done:]):
        done += count
    return done
