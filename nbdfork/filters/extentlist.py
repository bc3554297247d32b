"""The extentlist filter: tell clients of holes and zeroes by a list in a file.

The list does not change when clients write, so it is for disks that are only read.
"""

import bisect
import re
from collections.abc import Iterator

from nbdfork.plugin import (
    HOLE,
    ZERO,
    ConfigError,
    Export,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)

_WORDS = {"hole": HOLE, "zero": ZERO}
_END = 2**63


class ExtentList(Filter):
    """tell clients of holes by a list"""

    extentlist = Parameter(
        parse.path, required=True, metavar="FILENAME", help="the list: OFFSET LENGTH [TYPE] a line"
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        try:
            with open(self.extentlist, encoding="utf-8", errors="replace") as lines:
                listed = [_parsed(line, number) for number, line in enumerate(lines, 1)]
        except OSError as error:
            text = f"extentlist: extentlist={self.extentlist}: {error.strerror}"
            raise ConfigError(text) from error
        except ValueError as error:
            raise ConfigError(f"extentlist: extentlist={self.extentlist}: {error}") from None
        try:
            self._extents = list(_with_gaps(sorted(extent for extent in listed if extent)))
        except ValueError as error:
            raise ConfigError(f"extentlist: extentlist={self.extentlist}: {error}") from None

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return ListedExport(next, self._extents)


class ListedExport(FilterExport):
    """*next* with these *extents*, which have no gaps."""

    def __init__(self, next: Export, extents: list[Extent]) -> None:
        super().__init__(next)
        self._listed = extents
        self._starts = [extent.offset for extent in extents]

    def can_extents(self) -> bool:
        return True

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        for number in range(bisect.bisect_right(self._starts, offset) - 1, len(self._listed)):
            start, length, kind = self._listed[number]
            if start >= offset + count:
                return
            yield Extent(max(start, offset), start + length - max(start, offset), kind)


def _parsed(line: str, number: int) -> Extent | None:
    """Return what a line says, or None if that is nothing.  Raises ValueError."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    try:
        if len(words) not in (2, 3):
            raise ValueError("expected OFFSET LENGTH [TYPE]")
        offset, length = _size(words[0]), _size(words[1])
        return Extent(offset, length, _type(words[2]) if len(words) == 3 else 0)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def _size(text: str) -> int:
    return int(text, 16) if re.fullmatch(r"0[xX][0-9a-fA-F]{1,15}", text) else parse.size(text)


def _type(text: str) -> int:
    if re.fullmatch(r"[0-3]", text, re.ASCII):
        return int(text)
    found = 0
    for word in text.split(","):
        if word not in _WORDS:
            raise ValueError(f"{word!r} is no type: expected hole, zero, or both with a comma")
        found |= _WORDS[word]
    return found


def _with_gaps(extents: list[Extent]) -> Iterator[Extent]:
    """Yield *extents*, and what is between them and after them: holes.  Raises ValueError."""
    place = 0
    for extent in extents:
        if extent.offset < place:
            raise ValueError(f"two extents overlap at byte {extent.offset}")
        if extent.offset > place:
            yield Extent(place, extent.offset - place, HOLE | ZERO)
        if extent.length:
            yield extent
        place = extent.offset + extent.length
    if place < _END:
        yield Extent(place, _END - place, HOLE | ZERO)
