"""The lz4 filter: serve what is in lz4 data.

lz4 data are a sequence of frames without an index.  So all of the disk is decoded for its first
client to find out where they are, and the result is shared with the others.
"""

from nbdfork.filters._blocks import (
    MAX_INDEX,
    BlocksExport,
    Limit,
    check_blocks,
    dump,
    load,
    max_block,
    max_depth,
    max_index,
)
from nbdfork.filters._frames import Codec, FramesExport, scan
from nbdfork.filters._source import IndexStore, Source
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import ConfigError, Export, Parameter

_FRAME = b"\x04\x22\x4d\x18"  # lz4_Frame_format.md; nor skippable or legacy frames


class Lz4(UnpackFilter):
    """serve what is in lz4 data"""

    lz4_max_block = Parameter(
        max_block, default=512 * 1024 * 1024, metavar="SIZE", help="the largest frame to decode"
    )
    lz4_max_depth = Parameter(
        max_depth, default=8, metavar="N", help="how many frames each client keeps"
    )
    lz4_max_index = Parameter(
        max_index, default=MAX_INDEX, metavar="N", help="how many frames there may be"
    )

    def get_ready(self) -> None:
        self._codec = _codec()
        self._store = IndexStore()

    def unpack(self, next: Export, name: str) -> BlocksExport:
        source = Source(next, name)
        disk = load(self._store.get(source, lambda: self._learn(source)))
        largest = check_blocks(
            source,
            disk.blocks,
            "lz4-max-block",
            self.lz4_max_block,
            "compress it in smaller frames (split --filter=lz4)",
        )
        return FramesExport(source, disk, largest * self.lz4_max_depth, self._codec)

    def _limit(self) -> Limit:
        return Limit("lz4-max-index", self.lz4_max_index, self.lz4_max_index)

    def _learn(self, source: Source) -> bytes:
        return dump(scan(source, self._codec, self._limit()).disk(source))


def _codec() -> Codec:
    try:
        import lz4.frame
    except ImportError:
        raise ConfigError('lz4 needs lz4: pip install "nbdfork[lz4]"') from None
    new = lz4.frame.LZ4FrameDecompressor
    return Codec("lz4", new, (RuntimeError,), "hecksum", lambda head: head.startswith(_FRAME))
