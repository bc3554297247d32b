"""One client's view of a script's disk: each fact and each operation is one of its methods."""

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    MAY_TRIM,
    REQ_ONE,
    BlockSize,
    Export,
    Extent,
    Support,
)

from . import output
from .call import ShellScript

log = logging.getLogger(__name__)

T = TypeVar("T")

_WRITE_FLAGS = ((FUA, "fua"),)
_ZERO_FLAGS = ((FUA, "fua"), (MAY_TRIM, "may_trim"), (FAST_ZERO, "fast"))
_EXTENTS_FLAGS = ((REQ_ONE, "req_one"),)


class ShellExport(Export):
    """The disk of *script* for one client; *handle* is what its `open` printed."""

    def __init__(self, script: ShellScript, handle: str) -> None:
        self._script = script
        self._handle = handle

    # -- facts; a script cannot be asked which methods it has, so its `can_...` must say so ----

    def get_size(self) -> int:
        found = self._parsed("get_size", output.size)
        if found is None:
            raise self._script.error("get_size", "the script must have this method")
        return found

    def can_write(self) -> bool:
        return self._is("can_write")

    def can_flush(self) -> bool:
        return self._can_flush

    def can_trim(self) -> bool:
        return self._is("can_trim")

    def can_zero(self) -> bool:
        return self._can_zero

    def can_fast_zero(self) -> bool:
        # Without a zero of its own, it refuses one quickly.
        return not self._can_zero or self._is("can_fast_zero")

    def can_extents(self) -> bool:
        return self._is("can_extents")

    def can_multi_conn(self) -> bool:
        return self._is("can_multi_conn")

    def is_rotational(self) -> bool:
        return self._is("is_rotational")

    def can_fua(self) -> Support:
        found = self._parsed("can_fua", output.support)
        if found is None:
            return Support.EMULATE if self._can_flush else Support.NONE
        return found

    def can_cache(self) -> Support:
        found = self._parsed("can_cache", output.support)
        return Support.NONE if found is None else found

    def block_size(self) -> BlockSize:
        return self._parsed("block_size", output.block_size) or BlockSize()

    def description(self) -> str:
        try:
            return self._script.ask("export_description", self._handle) or ""
        except OSError as error:  # the disk can be served without a description
            log.error("%s", error)
            return ""

    @cached_property
    def _can_flush(self) -> bool:
        return self._is("can_flush")

    @cached_property
    def _can_zero(self) -> bool:
        return self._is("can_zero")

    def _is(self, method: str) -> bool:
        return self._script.is_true(method, self._handle, default=False)

    def _parsed(self, method: str, parse: Callable[[str], T], *arguments: object) -> T | None:
        """Return what a method prints, parsed; None if the script lacks it."""
        text = self._script.ask(method, self._handle, *arguments)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise self._script.error(method, f"the script printed {error}") from None

    # -- operations ---------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> bytes:
        data = self._script.call("pread", self._handle, count, offset, max_output=count)
        if data is None:
            raise self._script.error("pread", "the script must have this method")
        if len(data) != count:
            raise self._script.error("pread", f"printed {len(data)} bytes; {count} were to be read")
        return data

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        words = _words(flags, _WRITE_FLAGS)
        written = self._script.call("pwrite", self._handle, len(data), offset, words, data=data)
        if written is None:
            raise self._script.error("pwrite", "the script does not have it, but says it can")

    def flush(self) -> None:
        self._script.call("flush", self._handle)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._script.call("trim", self._handle, count, offset, _words(flags, _WRITE_FLAGS))

    def zero(self, count: int, offset: int, flags: int) -> None:
        words = _words(flags, _ZERO_FLAGS)
        if self._script.call("zero", self._handle, count, offset, words) is None:
            raise OSError(errno.EOPNOTSUPP, "the script has no zero: zeroes are written")

    def cache(self, count: int, offset: int) -> None:
        self._script.call("cache", self._handle, count, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        words = _words(flags, _EXTENTS_FLAGS)
        text = self._script.ask("extents", self._handle, count, offset, words)
        if text is None:
            raise self._script.error("extents", "the script does not have it, but says it can")
        return self._extents_in(text, offset)

    def _extents_in(self, text: str, offset: int) -> Iterator[Extent]:
        try:
            yield from output.extents(text, offset)
        except ValueError as error:
            code = errno.EINVAL if isinstance(error, output.OutOfOrderError) else errno.EIO
            raise self._script.error("extents", f"the script printed {error}", code) from None

    def close(self) -> None:
        try:
            self._script.call("close", self._handle)
        except OSError as error:  # the client has gone and cannot be told
            log.error("%s", error)


def _words(flags: int, names: Sequence[tuple[int, str]]) -> str:
    return ",".join(name for flag, name in names if flags & flag)
