"""Parsers for what a script prints: sizes, words, lists of exports and of extents.

The formats are those of nbdkit-sh-plugin(3).  The parsers raise ValueError, whose message completes
"the script printed ...".
"""

from collections.abc import Iterator, Sequence
from itertools import starmap, zip_longest

from nbdfork.plugin import HOLE, ZERO, BlockSize, ExportInfo, Extent, Support, parse

_NAMES = "NAMES"
_INTERLEAVED = "INTERLEAVED"
_NAMES_AND_DESCRIPTIONS = "NAMES+DESCRIPTIONS"


def size(text: str) -> int:
    """Parse a number of bytes, such as "1M"."""
    try:
        return parse.size(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


def support(text: str) -> Support:
    """Parse one of the words none, emulate and native."""
    try:
        return Support(text.strip().lower())
    except ValueError:
        raise ValueError(f"{text!r}: print none, emulate or native") from None


def block_size(text: str) -> BlockSize:
    """Parse the minimum, preferred and maximum block size; three zeroes mean no constraint."""
    match text.split():
        case [minimum, preferred, maximum, *_]:
            sizes = BlockSize(size(minimum), size(preferred), size(maximum))
        case _:
            raise ValueError(f"{text!r}: print three sizes: minimum, preferred and maximum")
    return sizes if any(sizes) else BlockSize()


def exports(text: str) -> list[ExportInfo]:
    """Parse a list of exports; the first line may name the format of the others."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    mode = lines[0] if lines else ""
    if mode == _INTERLEAVED:
        return _pairs(lines[1::2], lines[2::2])
    if mode == _NAMES_AND_DESCRIPTIONS:
        middle = 1 + len(lines) // 2
        return _pairs(lines[1:middle], lines[middle:])
    return [ExportInfo(name) for name in lines[mode == _NAMES :]]


def _pairs(names: Sequence[str], descriptions: Sequence[str]) -> list[ExportInfo]:
    return list(starmap(ExportInfo, zip_longest(names, descriptions, fillvalue="")))


class OutOfOrderError(ValueError):
    """The extents do not follow each other, or do not tell of the byte they must tell of."""


def extents(text: str, offset: int) -> Iterator[Extent]:
    """Parse extents, one a line: offset, length, and a type if it is not data.

    They must follow each other, and one must hold the byte at *offset*.
    """
    end: int | None = None
    for line in text.splitlines():
        if not line.strip():
            continue
        extent = _extent(line)
        start = extent.offset
        if end is None and start > offset:
            raise OutOfOrderError(f"extents that begin at {start}, after {offset}")
        if end is not None and start != end:
            raise OutOfOrderError(f"an extent that begins at {start}, but the last ends at {end}")
        end = start + extent.length
        yield extent
    if end is None or end <= offset:
        raise OutOfOrderError(f"no extent that holds byte {offset}")


def _extent(line: str) -> Extent:
    match line.split():
        case [offset, length]:
            return Extent(size(offset), size(length), 0)
        case [offset, length, kind, *_]:
            return Extent(size(offset), size(length), _extent_type(kind))
    raise ValueError(f"{line!r}: print extents as: offset length type")


def _extent_type(text: str) -> int:
    """Parse a number, or words, of which only "hole" and "zero" count, as for nbdkit."""
    if text.isdecimal():
        return int(text) & (HOLE | ZERO)
    return (HOLE if "hole" in text else 0) | (ZERO if "zero" in text else 0)
