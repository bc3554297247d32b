"""The lz4 filter: serve what is in lz4 data.

lz4 data are a sequence of frames without an index.  So all of the disk is decoded for its first
client to find out where they are, and the result is shared with the others.

There are three kinds of frames (lz4_Frame_format.md of lz4): those of today, those to be skipped,
and those of the legacy format, which end where something else begins.  The library knows only the
first kind.
"""

from typing import Any

from nbdfork.filters._blocks import (
    MAX_INDEX,
    BlocksExport,
    Disk,
    Limit,
    check_blocks,
    max_block,
    max_depth,
    max_index,
)
from nbdfork.filters._decoded import Recorder, Share
from nbdfork.filters._frames import Codec, FramesExport, scan
from nbdfork.filters._source import Source
from nbdfork.filters._unpack import Facts, UnpackFilter, salvage_parameter, scratch_parameter
from nbdfork.plugin import ConfigError, Parameter

_MAGIC = 4  # bytes
_FRAME = 0x184D2204
_SKIPPABLE = 0x184D2A50  # and 15 more
_LEGACY = 0x184C2102
_LEGACY_BLOCK = 8 * 1024 * 1024
_MAX_LEGACY = _LEGACY_BLOCK + _LEGACY_BLOCK // 255 + 16  # bytes of such a block, compressed


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

    lz4_salvage = salvage_parameter()
    lz4_scratch = scratch_parameter()

    def get_ready(self) -> None:
        self._codec = _codec()._replace(salvage=("lz4-salvage", self.lz4_salvage))
        super().get_ready()

    def scratch(self) -> int:
        return self.lz4_scratch

    def learn(self, source: Source, recorder: Recorder) -> tuple[Disk, bytes, list[bytes]]:
        limit = Limit("lz4-max-index", self.lz4_max_index, self.lz4_max_index)
        return scan(source, self._codec, limit, recorder.write).disk(source), b"", []

    def serve(self, source: Source, disk: Disk, share: Share, facts: Facts) -> BlocksExport:
        largest = check_blocks(
            source,
            disk.blocks,
            "lz4-max-block",
            self.lz4_max_block,
            "compress it in smaller frames (split --filter=lz4)",
        )
        return FramesExport(source, disk, share, largest * self.lz4_max_depth, self._codec)


def _codec() -> Codec:
    try:
        import lz4.block
        import lz4.frame
    except ImportError:
        raise ConfigError('lz4 needs lz4: pip install "nbdfork[lz4]"') from None
    errors = (RuntimeError, lz4.block.LZ4BlockError)
    return Codec("lz4", _AnyFrame, errors, "hecksum", _begins, may_end=_AnyFrame.may_end)


def _begins(head: bytes) -> bool:
    magic = _magic(head)
    return magic in (_FRAME, _LEGACY) or magic & ~0xF == _SKIPPABLE


def _magic(head: bytes | bytearray) -> int:
    return int.from_bytes(head[:_MAGIC], "little")


class _AnyFrame:
    """A decompressor for a frame of whichever kind its first bytes say."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: Any = None

    @property
    def eof(self) -> bool:
        return self._inner is not None and bool(self._inner.eof)

    @property
    def needs_input(self) -> bool:
        return self._inner is None or bool(self._inner.needs_input)

    @property
    def unused_data(self) -> bytes | None:
        return self._inner and self._inner.unused_data  # type: ignore[no-any-return]

    def may_end(self) -> bool:
        return isinstance(self._inner, _Legacy) and self._inner.may_end()

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._inner is None:
            data = self._head + data
            if len(data) < _MAGIC:
                self._head = data
                return b""
            self._inner = _decompressor(_magic(data))
        return self._inner.decompress(data, max_length)  # type: ignore[no-any-return]


def _decompressor(magic: int) -> Any:
    if magic == _LEGACY:
        return _Legacy()
    if magic & ~0xF == _SKIPPABLE:
        return _Skipped()
    import lz4.frame

    return lz4.frame.LZ4FrameDecompressor()


class _Skipped:
    """A frame to be skipped: its magic number, the size of what follows, and that."""

    needs_input = True

    def __init__(self) -> None:
        self._head = b""
        self._left = -1
        self.eof = False
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._left < 0:
            data = self._head = self._head + data
            if len(data) < 2 * _MAGIC:
                return b""
            self._left = int.from_bytes(data[_MAGIC : 2 * _MAGIC], "little")
            data = data[2 * _MAGIC :]
        self.unused_data = data[self._left :]
        self._left -= min(self._left, len(data))
        self.eof = not self._left
        return b""


class _Legacy:
    """A frame of the legacy format: its magic number, and blocks, each after its size.

    It ends with the data, or at what cannot be the size of a block, such as the next magic number.
    """

    def __init__(self) -> None:
        self._data = bytearray()  # from the size of the next block on, once *_begun*
        self._begun = False
        self._out = memoryview(b"")  # what is left of a block
        self.eof = False
        self.unused_data = b""

    @property
    def needs_input(self) -> bool:
        return not (self._out or self._block_size())

    def may_end(self) -> bool:
        """Return whether the frame is complete if nothing follows."""
        return self._begun and not self._data and not self._out

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        self._data += data
        if not self._begun and len(self._data) >= _MAGIC:
            del self._data[:_MAGIC]
            self._begun = True
        if not self._out and (size := self._block_size()):
            self._decode(size)
        count = len(self._out) if max_length < 0 else max_length
        part, self._out = bytes(self._out[:count]), self._out[count:]
        if not self._out and self._is_over():
            self.eof = True
            self.unused_data = bytes(self._data)
        return part

    def _size(self) -> int | None:
        has_size = self._begun and len(self._data) >= _MAGIC
        return _magic(self._data) if has_size else None

    def _is_over(self) -> bool:
        size = self._size()
        return size is not None and not 0 < size <= _MAX_LEGACY

    def _block_size(self) -> int:
        """Return how many bytes the next block has, if all of them are there, or 0."""
        size = self._size()
        if size is None or self._is_over() or len(self._data) < _MAGIC + size:
            return 0
        return size

    def _decode(self, size: int) -> None:
        import lz4.block

        block = bytes(self._data[_MAGIC : _MAGIC + size])
        del self._data[: _MAGIC + size]
        self._out = memoryview(lz4.block.decompress(block, uncompressed_size=_LEGACY_BLOCK))
