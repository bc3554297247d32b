"""The expressions of the data plugin's language: each is a part of a disk.

An expression has a size, and yields its content in pieces, so that large gaps and large repetitions
take no memory.
"""

import os
import stat
import subprocess
from collections.abc import Iterator
from typing import IO, Protocol

from nbdfork.plugin.parse import MAX_SIZE

_PIECE = 1024 * 1024

Piece = tuple[int, bytes]
"""An offset, and the bytes that are there."""


class Expression(Protocol):
    """A part of a disk."""

    size: int

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Yield the content from *start* to *end*, both in bytes.

        Where pieces overlap, the later one counts; where there are none, there are zeroes.
        """


class Literal:
    """Bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        if part := self.content[start:end]:
            yield start, part


class Sequence:
    """Expressions, each at an offset; where they overlap, the later one counts."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[tuple[int, Expression]] = []

    def put(self, offset: int, expression: Expression) -> None:
        """Write *expression* at *offset*."""
        self._parts.append((offset, expression))
        self.grow(offset + expression.size)

    def grow(self, size: int) -> None:
        """Make the size at least *size*."""
        self.size = _checked_size(max(self.size, size))

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        for offset, part in self._parts:
            first, last = max(start - offset, 0), min(end - offset, part.size)
            if first < last:
                yield from _moved(part.pieces(first, last), offset)


class Repeat:
    """An expression, *count* times one after another."""

    def __init__(self, expression: Expression, count: int) -> None:
        unit = expression.size
        self.size = _checked_size(unit * count)
        if 0 < unit <= _PIECE // 2 and count > 1:  # repeat it in memory: fewer, larger pieces
            times = min(_PIECE // unit, count)
            expression = Literal(render(expression) * times)
        self._expression = expression

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        unit = self._expression.size
        end = min(end, self.size)
        while start < end:
            turn = start // unit * unit
            last = min(end - turn, unit)
            yield from _moved(self._expression.pieces(start - turn, last), turn)
            start = turn + last


class Slice:
    """An expression from byte *start* up to byte *end*."""

    def __init__(self, expression: Expression, start: int, end: int) -> None:
        self._expression = expression
        self._start = start
        self.size = end - start

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        end = min(end, self.size)
        if start < end:
            inner = self._expression.pieces(start + self._start, end + self._start)
            yield from _moved(inner, -self._start)


def render(expression: Expression) -> bytes:
    """Return the whole content of *expression*."""
    content = bytearray(expression.size)
    for offset, data in expression.pieces(0, expression.size):
        content[offset : offset + len(data)] = data
    return bytes(content)


def _moved(pieces: Iterator[Piece], distance: int) -> Iterator[Piece]:
    return ((offset + distance, data) for offset, data in pieces)


def _checked_size(size: int) -> int:
    if size > MAX_SIZE:
        raise ValueError("the disk would be larger than 2^63-1 bytes")
    return size


# -- content from elsewhere -------------------------------------------------------------------


def read_file(path: str, limit: int | None) -> bytes:
    """Return the content of a file, or its first *limit* bytes."""
    with open(path, "rb") as file:
        if limit is None and stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"<{path} has no end: take a slice of it, as in <{path}[:512]")
        return _read(file, limit)


def _read(file: IO[bytes], limit: int | None) -> bytes:
    """Return the content of *file*, or its first *limit* bytes.

    It may be shorter than *limit*, and then no memory is taken for the rest.
    """
    if limit is None:
        return file.read()
    content = bytearray()
    while piece := file.read(min(_PIECE, limit - len(content))):
        content += piece
    return bytes(content)


def run_script(script: str, limit: int | None) -> bytes:
    """Return the output of a script, or its first *limit* bytes."""
    command = ["/bin/sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        content = _read(process.stdout, limit)
        if limit is not None:
            process.kill()  # its output may be endless
    if limit is None and process.returncode:
        raise ValueError(f"<({script.strip()}) failed with status {process.returncode}")
    return content
