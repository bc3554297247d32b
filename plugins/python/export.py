"""One client's view of a script's disk: facts and operations, as nbdkit derives them."""

import errno
import logging
import operator
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from nbdfork.plugin import (
    MAY_TRIM,
    BlockSize,
    Buffer,
    Extent,
    Support,
    ThreadModel,
    parse,
)
from nbdfork.scripting import CallbackExport

from .script import FAILURES, PythonScript, request

log = logging.getLogger(__name__)

_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP})


class PythonExport(CallbackExport):
    """One client's view, for API version 2; *handle* is what the script's open returned."""

    def __init__(self, script: PythonScript, handle: object, model: ThreadModel) -> None:
        self._script = script
        self._handle = handle
        self.model = model
        # Looked up once, because they are called for every read and write.
        self._script_pread: Any = script.get("pread")
        self._script_pwrite: Any = script.get("pwrite")

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        size = self.ask("get_size")
        try:
            size = operator.index(size)
        except TypeError:
            raise self._script.error("get_size", f"returned {size!r}; return an int") from None
        if not 0 <= size <= parse.MAX_SIZE:
            shown = size if size.bit_length() < 100 else f"a number of {size.bit_length()} bits"
            raise self._script.error("get_size", f"returned {shown}; return 0 to 2^63-1 bytes")
        return int(size)

    def block_size(self) -> BlockSize:
        if not self.has("block_size"):
            return BlockSize()
        sizes = self.ask("block_size")
        match sizes:
            case (0, 0, 0):
                return BlockSize()
            case (int(minimum), int(preferred), int(maximum)):
                return BlockSize(minimum, preferred, maximum)
        raise self._script.error(
            "block_size", f"returned {sizes!r}; return a tuple (minimum, preferred, maximum)"
        )

    def description(self) -> str:
        if not self.has("export_description"):
            return ""
        try:
            text = self.ask("export_description")
        except OSError as error:  # the disk can be served without a description
            log.error("%s", error)
            return ""
        if isinstance(text, str):
            return text
        log.error("%s: export_description returned %r; return a string", self._script.path, text)
        return ""

    def has(self, callback: str) -> bool:
        return self._script.get(callback) is not None

    def ask(self, callback: str) -> Any:
        return self._script.call(callback, self._handle)

    def says_yes(self, callback: str, default: bool) -> bool:
        if not self.has(callback):
            return default
        answer = self.ask(callback)
        if not isinstance(answer, bool):
            log.warning(
                "%s: %s returned %r, which nbdkit takes for False, and so does nbdfork; return"
                " True or False", self._script.path, callback, answer,
            )  # fmt: skip
        return answer is True

    def bad_answer(self, callback: str, answer: object) -> OSError:
        prefix = f"nbdkit.{callback.removeprefix('can_').upper()}"
        return self._script.error(
            callback, f"returned {answer!r}; return {prefix}_NONE, _EMULATE or _NATIVE"
        )

    # -- operations ---------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> Buffer:
        data = bytearray(count)
        request.error = 0
        try:
            self._script_pread(self._handle, memoryview(data), offset, 0)
        except FAILURES as error:
            raise self._script.error("pread", error) from error
        return data

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if self._script_pwrite is None:
            raise self._script.missing("pwrite")
        request.error = 0
        try:
            self._script_pwrite(self._handle, data.toreadonly(), offset, flags)
        except FAILURES as error:
            raise self._script.error("pwrite", error) from error

    def flush(self) -> None:
        self._script.call("flush", self._handle, 0)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._script.call("trim", self._handle, count, offset, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._zero(count, offset, flags)

    def _zero(self, count: int, offset: int, last: int | bool) -> None:
        if not self.has("zero"):
            raise OSError(errno.EOPNOTSUPP, "the script has no zero")
        self._script.call("zero", self._handle, count, offset, last)
        if request.error in _NOT_SUPPORTED:  # it counts even if the script raises nothing
            raise OSError(request.error, "the script asks for zeroes to be written")

    def cache(self, count: int, offset: int) -> None:
        self._script.call("cache", self._handle, count, offset, 0)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        found = self._script.call("extents", self._handle, count, offset, flags)
        return self._script.converted("extents", _extent, _from_offset(found, offset))

    def close(self) -> None:
        try:
            if self.has("close"):
                self.ask("close")
        finally:
            self._handle = None
            request.export_name = None


def _from_offset(found: Any, offset: int) -> Iterator[object]:
    """Yield what a script has returned, of a list only what does not end before *offset*: nbdkit
    lets scripts tell of the whole disk at any time.
    """
    if not isinstance(found, list) or not found:
        yield from found
        return
    first = _extent(found[0])
    start = 0
    if first.offset + first.length <= offset:
        start = bisect_right(found, offset, key=operator.itemgetter(0)) - 1
    for number in range(start, len(found)):
        yield found[number]


def _extent(item: object) -> Extent:
    if isinstance(item, tuple) and len(item) == 3:
        offset, length, kind = item
        if isinstance(offset, int) and isinstance(length, int) and isinstance(kind, int):
            return Extent(offset, length, kind)
    raise TypeError(f"{item!r} is no extent; return a list of (offset, length, type) tuples")


class PythonExportV1(PythonExport):
    """The same for API version 1: a read returns a buffer, and there are no flags."""

    def can_fua(self) -> Support:
        # There is no flag by which the script could be told, so it is asked to flush.
        answer = super().can_fua()
        return Support.EMULATE if answer is Support.NATIVE and self.has("flush") else answer

    def pread(self, count: int, offset: int) -> Buffer:
        request.error = 0
        try:
            data = self._script_pread(self._handle, count, offset)
        except FAILURES as error:
            raise self._script.error("pread", error) from error
        if type(data) is bytes and len(data) == count:
            return data
        return self._cut(data, count)

    def _cut(self, data: object, count: int) -> Buffer:
        """Return the first *count* bytes of the buffer that the script returned."""
        try:
            view = memoryview(data).cast("B")  # type: ignore[arg-type]
        except TypeError:
            kind = type(data).__name__
            raise self._script.error("pread", f"returned {kind}; return bytes") from None
        if len(view) < count:
            raise self._script.error(
                "pread", f"returned {len(view)} bytes; return as many as asked for, {count}"
            )
        return view[:count]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if self._script_pwrite is None:
            raise self._script.missing("pwrite")
        request.error = 0
        try:
            self._script_pwrite(self._handle, data.toreadonly(), offset)
        except FAILURES as error:
            raise self._script.error("pwrite", error) from error

    def flush(self) -> None:
        self._script.call("flush", self._handle)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._script.call("trim", self._handle, count, offset)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._zero(count, offset, bool(flags & MAY_TRIM))
