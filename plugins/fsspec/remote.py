"""The file in a file system of its own: facts about it, and reading ranges of it.

There are two kinds of file systems.  Those that are asynchronous inside take requests from several
threads at once, and read a range with one request.  Of the others, and of chains, nobody knows what
threads may do: they get one request at a time.  Their file is kept open, without the library's
read-ahead, which would fetch megabytes for a read of a few bytes.
"""

import logging
import operator
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

from nbdfork.plugin import parse

from .._link.texts import shown
from .._link.within import Unanswered, within
from .recipe import Nonsense, Recipe

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = (
    *("ETag", "etag", "e_tag", "Content-MD5", "Digest", "md5", "md5Hash", "sha", "hash"),
    *("generation", "VersionId", "version_id", "Last-Modified", "LastModified", "last_modified"),
    *("modify", "mtime", "modified", "updated", "last_write_time", "ino"),
)
"""What file systems call the facts that change when a file is changed."""


class Facts(NamedTuple):
    """What a file system tells about the file.

    Its size in bytes, if known; what identifies its version; and whether parts of it can be read.
    """

    size: int | None
    version: dict[str, str]
    partial: bool = True

    def difference(self, other: "Facts") -> str:
        """Return how *other* shows that the file has changed, or "" if it has not."""
        if other.size != self.size:
            return f"its size was {self.size} bytes and is {other.size}"
        for key, before in self.version.items():
            if (now := other.version.get(key)) != before:
                is_now = "is not told any more" if now is None else f"is {shown(now)}"
                return f"its {key} was {shown(before)} and {is_now}"
        return ""


class RemoteFile:
    """The file, in a file system of its own.

    The methods raise whatever that raises, `Nonsense` for what cannot be true, and `Unanswered` if
    something takes longer than *timeout*, in seconds.
    """

    def __init__(self, recipe: Recipe, timeout: float) -> None:
        self._timeout = timeout
        self._unanswered: Unanswered | None = None
        self._file_system, self._path = recipe.make()
        bottom = len(recipe.parts) - 1
        self._named = recipe.make(recipe.named) if recipe.named else (self._file_system, self._path)
        is_made_of_it = bottom > recipe.named and "dir" not in recipe.protocols
        self._bottom = recipe.make(bottom) if is_made_of_it else None
        self._is_async = bottom == 0 and self._file_system.async_impl
        # A cache that is a part of a chain has its own way of reading ahead.
        self._open_options = {} if recipe.named else {"cache_type": "none"}
        self._one_at_a_time = threading.Lock()
        self._file: Any = None

    def facts(self) -> Facts:
        """Return the facts of the file now."""
        return self._asked(self._facts)

    def _asked(self, call: Callable[[], T]) -> T:
        """Make a call, one at a time if it has to be so."""
        with nullcontext() if self._is_async else self._one_at_a_time:
            if self._unanswered is not None:  # that call may still go on
                raise Unanswered(*self._unanswered.args)
            try:
                return within(self._timeout, call)
            except Unanswered as error:
                if not self._is_async:
                    self._unanswered = error
                raise

    def _facts(self) -> Facts:
        found = self._info(*self._named)  # and not of a cache, which does not know everything
        if found.get("type") == "directory":
            raise IsADirectoryError("it is a directory")
        source = found
        if self._bottom is not None:
            # What is made from another file changes when that one does.
            source = self._info(*self._bottom)
        version = {key: str(source[key]) for key in _VERSION if source.get(key) is not None}
        return Facts(_size(found.get("size")), version, bool(found.get("partial", True)))

    def _info(self, file_system: Any, path: str) -> dict[str, Any]:
        file_system.invalidate_cache()
        info = file_system.info(path)
        if not isinstance(info, dict):
            raise Nonsense(f"{type(info).__name__} for the facts of a file")
        return info

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of the file from *start* to *end*."""
        data = self._asked(lambda: self._read(start, end))
        if not isinstance(data, bytes | bytearray | memoryview):
            raise Nonsense(f"{type(data).__name__} for what is in the file")
        return bytes(data)

    def _read(self, start: int, end: int) -> object:
        if self._is_async:
            return self._file_system.cat_file(self._path, start=start, end=end)
        if self._file is None:
            self._file = self._file_system.open(self._path, "rb", **self._open_options)
        self._file.seek(start)
        return self._read_all(end - start)

    def _read_all(self, count: int) -> bytes:
        """Read *count* bytes, or fewer at the end of the file: a short read is not always that."""
        data = b""
        while len(data) < count and (more := self._file.read(count - len(data))):
            data = data + more if data else more
        return data

    def close(self) -> None:
        """Close what is open; nobody will use it again."""
        file, self._file = self._file, None
        if file is not None and self._unanswered is None:
            try:
                file.close()
            except Exception as error:  # usually because the connection is lost
                log.debug("fsspec: closing the file: %s", type(error).__name__)


def _size(told: object) -> int | None:
    """Return the size that a file system tells, or None if it does not.  Raises `Nonsense`."""
    if told is None:
        return None
    try:
        size = operator.index(told)  # type: ignore[arg-type]  # that is what is tried
    except TypeError:
        raise Nonsense(f"a size of {shown(str(told))}") from None
    if not 0 <= size <= parse.MAX_SIZE:
        raise Nonsense(f"a size of {shown(hex(size))} bytes")
    return size
