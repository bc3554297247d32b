"""The expressions of the data plugin's language: each is a part of a disk.

An expression has a size, and yields its content in pieces, so that large gaps and large repetitions
take no memory until they are written.  How much the writing will take is known before.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from nbdfork.plugin import parse

_PIECE = 1024 * 1024
_SMALL = 64 * 1024
"""A sequence of up to so many bytes is made in memory, so that it is one piece."""

_PAGE = 4096
"""The least that a piece weighs, in bytes: it takes a page of memory, or as much time."""

_MAX_DEPTH = 100
_MAX_STEPS = 100_000


class Piece(NamedTuple):
    """*size* bytes at *offset*; they are zeroes if there is no *content*."""

    offset: int
    size: int
    content: bytes | None

    def moved(self, distance: int) -> "Piece":
        """Return the same piece at another place."""
        return Piece(self.offset + distance, self.size, self.content)


class Expression(Protocol):
    """A part of a disk of *size* bytes; *depth* is how many expressions are in each other.

    *weight* is about how many bytes of memory it takes to write all of it.
    """

    size: int
    depth: int
    weight: int

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Yield the content from *start* to *end* (bytes); the later of two pieces counts."""

    def weights(self, start: int, end: int) -> Iterator[int]:
        """Yield numbers whose sum is the weight of the part from *start* to *end*."""


class Zeroes:
    """Nothing but zeroes."""

    depth = 0

    def __init__(self, size: int) -> None:
        self.size = _checked_size(size)
        self.weight = _PAGE if size else 0

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        if (end := min(end, self.size)) > start:
            yield Piece(start, end - start, None)

    def weights(self, start: int, end: int) -> Iterator[int]:
        yield _PAGE


class Literal:
    """Bytes."""

    depth = 0

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)
        self.weight = max(self.size, _PAGE)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        if part := self._content[start:end]:
            yield Piece(start, len(part), part)

    def weights(self, start: int, end: int) -> Iterator[int]:
        yield max(min(end, self.size) - start, _PAGE)


class Sequence:
    """Expressions, each at an offset; where they overlap, the later one counts."""

    def __init__(self) -> None:
        self.size = 0
        self.depth = 0
        self.weight = _PAGE
        self._parts: list[tuple[int, Expression]] = []

    def put(self, offset: int, expression: Expression) -> None:
        """Write *expression* at *offset*."""
        if expression.size:
            self._parts.append((offset, expression))
            self.depth = _depth_over(expression, self.depth)
            self.weight += expression.weight
        self.grow(offset + expression.size)

    def grow(self, size: int) -> None:
        """Make the size at least *size*."""
        self.size = _checked_size(max(self.size, size))

    def whole(self) -> Expression:
        """Return the simplest expression that is the same, now that nothing more is put into it."""
        if all(isinstance(part, Zeroes) for _, part in self._parts):
            return Zeroes(self.size)
        if self.size <= _SMALL:
            return literal(_render(self))
        _, first = self._parts[0]
        return first if len(self._parts) == 1 and first.size == self.size else self

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        yield Piece(start, end - start, None)  # a gap hides what is below it, as in nbdkit
        for offset, part in self._parts:
            first, last = max(start - offset, 0), min(end - offset, part.size)
            if first < last:
                yield from _moved(part.pieces(first, last), offset)

    def weights(self, start: int, end: int) -> Iterator[int]:
        yield _PAGE
        for offset, part in self._parts:
            first, last = max(start - offset, 0), min(end - offset, part.size)
            if last - first == part.size:
                yield part.weight
            elif first < last:
                yield from part.weights(first, last)


class Repeat:
    """An expression, *count* times one after another."""

    def __init__(self, expression: Expression, count: int) -> None:
        self.size = _checked_size(expression.size * count)
        self.depth = _depth_over(expression)
        is_small = expression.size <= _PIECE // 2
        self.weight = max(self.size, _PAGE) if is_small else expression.weight * count
        self._times = _PIECE // expression.size if is_small else 0
        self._expression = expression

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        expression = self._expression
        if self._times:  # repeat it in memory: fewer, larger pieces
            expression = Literal(_render(expression) * self._times)
        unit = expression.size
        while start < end:
            turn = start // unit * unit
            last = min(end - turn, unit)
            yield from _moved(expression.pieces(start - turn, last), turn)
            start = turn + last

    def weights(self, start: int, end: int) -> Iterator[int]:
        if self._times:
            yield max(end - start, _PAGE)
            return
        unit = self._expression.size
        if inside := start % unit:
            last = min(unit, inside + end - start)
            yield from self._expression.weights(inside, last)
            start += last - inside
        yield (end - start) // unit * self._expression.weight
        if rest := (end - start) % unit:
            yield from self._expression.weights(0, rest)


class Slice:
    """An expression from byte *start* up to byte *end*."""

    def __init__(self, expression: Expression, start: int, end: int) -> None:
        self._expression = expression
        self._start = start
        self.size = end - start
        self.depth = _depth_over(expression)
        self.weight = _sum(expression.weights(start, end))

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        inner = self._expression.pieces(start + self._start, end + self._start)
        yield from _moved(inner, -self._start)

    def weights(self, start: int, end: int) -> Iterator[int]:
        return self._expression.weights(start + self._start, end + self._start)


def literal(content: bytes) -> Expression:
    """Return the expression for *content*."""
    return Zeroes(len(content)) if content.count(0) == len(content) else Literal(content)


def repeat(expression: Expression, count: int) -> Expression:
    """Return *expression*, *count* times."""
    if isinstance(expression, Zeroes) or not count:
        return Zeroes(expression.size * count)
    return expression if count == 1 else Repeat(expression, count)


def slice_of(expression: Expression, start: int, end: int) -> Expression:
    """Return the bytes of *expression* from *start* up to *end*."""
    if isinstance(expression, Zeroes) or start == end:
        return Zeroes(end - start)
    return expression if end - start == expression.size else Slice(expression, start, end)


def weight_of(expression: Expression, size: int) -> int:
    """Return about how many bytes of memory the first *size* bytes of *expression* take."""
    if size >= expression.size:
        return expression.weight
    return _sum(expression.weights(0, size)) if size else 0


def _sum(weights: Iterator[int]) -> int:
    total = 0
    for steps, weight in enumerate(weights):
        total += weight
        if steps > _MAX_STEPS:
            raise ValueError("the expressions overlap too often")
    return total


def _render(expression: Expression) -> bytes:
    """Return the whole content of *expression*."""
    rendered = bytearray(expression.size)
    for offset, size, content in expression.pieces(0, expression.size):
        rendered[offset : offset + size] = bytes(size) if content is None else content
    return bytes(rendered)


def _moved(pieces: Iterator[Piece], distance: int) -> Iterator[Piece]:
    return (piece.moved(distance) for piece in pieces)


def _depth_over(expression: Expression, least: int = 0) -> int:
    depth = max(expression.depth + 1, least)
    if depth > _MAX_DEPTH:
        raise ValueError(f"the expressions are nested more than {_MAX_DEPTH} deep")
    return depth


def _checked_size(size: int) -> int:
    if size > parse.MAX_SIZE:
        raise ValueError("the disk would be larger than 2^63-1 bytes")
    return size
