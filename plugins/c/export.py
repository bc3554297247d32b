"""One client's view of the disk of a C plugin: facts and operations, as nbdkit makes them of it."""

import errno
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nbdfork.plugin import FAST_ZERO, BlockSize, Extent, Support, ThreadModel
from nbdfork.scripting import CallbackExport

from .library import CallbackError, Library

if TYPE_CHECKING:
    from ._native import Client

log = logging.getLogger(__name__)

_MOST = 1 << 31
"""The largest count that is passed on: the API has 32 bits for it, and any alignment fits this."""


class CExport(CallbackExport):
    """One client's view of the disk of *library*; *client* is what its .open has made."""

    def __init__(self, library: Library, client: "Client", model: ThreadModel) -> None:
        self._library = library
        self._client = client
        self.model = model
        # These two take and return what Export's methods do, and cost nothing in between.
        for operation in ("pread", "pwrite"):
            if self.has(operation):
                setattr(self, operation, getattr(client, operation))

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        size = self._client.get_size()
        if size < 0:
            raise self.bad_answer("get_size", size)
        return size

    def can_fast_zero(self) -> bool:
        # nbdkit-plugin(3) promises it for a .can_zero that returns 0, too; nbdkit 1.32 does not.
        without = self._library.native.api_version == 1 or not self.has("zero")
        return self.says_yes("can_fast_zero", without)

    def can_fua(self) -> Support:
        answer = super().can_fua()
        if answer is Support.NATIVE and self._library.native.api_version == 1:
            return Support.EMULATE  # its operations have no flags
        return answer

    def block_size(self) -> BlockSize:
        if not self.has("block_size"):
            return BlockSize()
        sizes = BlockSize(*self._client.block_size())
        return BlockSize() if sizes == (0, 0, 0) else sizes

    def description(self) -> str:
        if not self.has("export_description"):
            return ""
        try:
            return self._client.export_description()
        except CallbackError as error:  # no reason not to serve the disk
            log.debug("%s", error)
            return ""

    def has(self, callback: str) -> bool:
        return callback in self._library.callbacks

    def ask(self, callback: str) -> int:
        return self._client.ask(callback)

    def bad_answer(self, callback: str, answer: object) -> CallbackError:
        return CallbackError(self._library.name, callback, errno.EINVAL, f"it returned {answer}")

    # -- operations ---------------------------------------------------------------------

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._demand("pwrite")  # there is none, or this would not be called

    def flush(self) -> None:
        self._demand("flush")
        self._client.flush()

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._demand("trim")
        for length, start in _pieces(count, offset):
            self._client.trim(length, start, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        if not self.has("zero"):
            raise OSError(errno.EOPNOTSUPP, "the plugin has no zero")
        if flags & FAST_ZERO and self._library.native.api_version == 1:
            raise OSError(errno.EOPNOTSUPP, "version 1 of the API knows no fast zero")
        for length, start in _pieces(count, offset):
            self._client.zero(length, start, flags)

    def cache(self, count: int, offset: int) -> None:
        if not self.has("cache"):
            return  # it says that it can: then there is nothing to do
        for length, start in _pieces(count, offset):
            self._client.cache(length, start)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        self._demand("extents")
        return map(Extent._make, self._client.extents(min(count, _MOST), offset, flags))

    def _demand(self, callback: str) -> None:
        """Fail for a plugin that says it can, and has no such callback."""
        if not self.has(callback):
            cause = f"it has no .{callback}, but says that it can"
            raise CallbackError(self._library.name, callback, errno.EINVAL, cause)

    def close(self) -> None:
        self._client.close()


def _pieces(count: int, offset: int) -> Iterator[tuple[int, int]]:
    """Yield length and offset of the parts of a range that may be longer than the API takes."""
    end = offset + count
    for start in range(offset, end, _MOST):
        yield min(_MOST, end - start), start
