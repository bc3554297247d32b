"""One client's view of a script's disk: each fact and each operation is one request."""

import logging
from bisect import bisect_right
from collections.abc import Iterator

from nbdfork.plugin import BlockSize, Buffer, Extent, ThreadModel, parse
from nbdfork.scripting.callbacks import CallbackExport
from nbdfork.scripting.frames import BLOCK_SIZE, EXTENT
from nbdfork.scripting.script import Script

log = logging.getLogger(__name__)


_MAX_DESCRIPTION = 64 * 1024
"""More bytes of a description than any client is sent."""


class ScriptExport(CallbackExport):
    """The disk of *script*, as *handle*, the number that stands for what its open returned."""

    def __init__(self, script: Script, handle: int, model: ThreadModel) -> None:
        self._script = script
        self._handle = handle
        self.model = model

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        size = self.ask("get_size")
        if not 0 <= size <= parse.MAX_SIZE:
            raise self._script.error("get_size", f"returned {size}; return 0 to 2^63-1 bytes")
        return size

    def block_size(self) -> BlockSize:
        if not self.has("block_size"):
            return BlockSize()
        _, payload = self._script.call("block_size", handle=self._handle)
        if len(payload) != BLOCK_SIZE.size:
            raise self._script.error("block_size", "the answer is not three numbers")
        sizes = BlockSize(*BLOCK_SIZE.unpack(payload))
        return sizes if any(sizes) else BlockSize()

    def description(self) -> str:
        if not self.has("export_description"):
            return ""
        try:
            _, payload = self._script.call("export_description", handle=self._handle)
        except OSError as error:  # the disk can be served without a description
            log.error("%s", error)
            return ""
        return payload[:_MAX_DESCRIPTION].decode(errors="replace")

    def has(self, callback: str) -> bool:
        return callback in self._script.callbacks

    def ask(self, callback: str) -> int:
        return self._script.call(callback, handle=self._handle)[0]

    def bad_answer(self, callback: str, answer: object) -> OSError:
        text = f"returned {answer}; return 0 (none), 1 (emulate) or 2 (native)"
        return self._script.error(callback, text)

    # -- operations ---------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> Buffer:
        return self._script.pread(self._handle, count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._script.call("pwrite", data, handle=self._handle, flags=flags, offset=offset)

    def flush(self) -> None:
        self._script.call("flush", handle=self._handle)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._on_range("trim", count, offset, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._on_range("zero", count, offset, flags)

    def cache(self, count: int, offset: int) -> None:
        self._on_range("cache", count, offset, 0)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        payload = self._on_range("extents", count, offset, flags)
        if len(payload) % EXTENT.size:
            raise self._script.error("extents", "the answer is not a list of extents")
        return _unpacked(payload, offset)

    def _on_range(self, callback: str, count: int, offset: int, flags: int) -> bytes:
        return self._script.call(
            callback, handle=self._handle, flags=flags, count=count, offset=offset
        )[1]

    def close(self) -> None:
        if self._script.is_gone:
            return
        try:
            self._script.call("close", handle=self._handle)
        except OSError as error:  # the client has gone and cannot be told
            log.error("%s", error)


def _unpacked(payload: bytes, offset: int) -> Iterator[Extent]:
    """Return the extents in *payload*, without those that end before *offset*: nbdkit lets scripts
    tell of the whole disk at any time.
    """
    places = range(0, len(payload), EXTENT.size)

    def start(place: int) -> int:
        found: int = EXTENT.unpack_from(payload, place)[0]
        return found

    first = max(bisect_right(places, offset, key=start) - 1, 0)
    return map(Extent._make, EXTENT.iter_unpack(memoryview(payload)[first * EXTENT.size :]))
