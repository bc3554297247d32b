"""Blocks that are unpacked when they are read, and kept for a while."""

import threading

import pytest

from nbdfork.filters import _blocks, _decoded, _source
from nbdfork.plugin import Buffer
from tests.support.compressed import Below


class Counting(_blocks.BlocksExport):
    """Blocks of 10 bytes that are made of their number, and counted."""

    def __init__(self, capacity: int) -> None:
        blocks = [_blocks.Block(n * 10, 10, n, 1) for n in range(20)]
        source = _source.Source(Below(b"x"), "disk")
        disk = _blocks.Disk(_blocks.Blocks(blocks), 200)
        share = _decoded.Share(_decoded.Decoded(0), 0, 200)
        super().__init__(source, disk, share, capacity, "test")
        self.decoded: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def decode(self, block: _blocks.Block) -> Buffer:
        self.decoded.append(block.place)
        assert self.may_go_on.wait(30)
        return bytes([block.place] * 10)


def test_the_blocks_used_last_are_kept() -> None:
    export = Counting(30)
    for number in (0, 1, 2, 0, 3, 0, 1):
        assert bytes(export.pread(4, number * 10 + 3)) == bytes([number] * 4)
    assert export.decoded == [0, 1, 2, 3, 1]
    assert bytes(export.pread(25, 8)) == bytes([0] * 2 + [1] * 10 + [2] * 10 + [3] * 3)


def test_one_block_is_kept_however_large() -> None:
    export = Counting(1)
    for _ in range(3):
        export.pread(10, 50)
    assert export.decoded == [5]


def test_threads_that_want_one_block_share_it() -> None:
    export = Counting(100)
    export.may_go_on.clear()
    threads = [threading.Thread(target=export.pread, args=(5, 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    export.may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert export.decoded == [0]


def test_blocks_as_bytes() -> None:
    blocks = _blocks.Blocks(_blocks.Block(n * 7, 7, 2**62 + n, n) for n in range(5))
    disk = _blocks.Disk(blocks, 2**63 - 1, "it is \udcff")
    loaded, more = _blocks.Disk.load(disk.dump(b"and more"))
    assert (list(loaded.blocks), *loaded[1:], more) == (list(blocks), *disk[1:], b"and more")
    assert blocks[-1] == blocks[4] == (28, 7, 2**62 + 4, 4)
    assert list(blocks[1:3]) == [blocks[1], blocks[2]]
    assert list(blocks.offsets()) == [0, 7, 14, 21, 28]
    with pytest.raises(IndexError):
        blocks[5]
