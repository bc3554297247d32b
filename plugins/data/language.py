"""The parser of the data plugin's language: from text to expressions."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Literal as OneOf

from .expressions import Expression, Sequence, literal, repeat, slice_of
from .sources import Sources

_BLANK = re.compile(r"(\s|#[^\n]*)*")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", re.ASCII)
_WORD = re.compile(r"(le|be)(16|32|64):")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_NAME = re.compile(r"\\([A-Za-z0-9_-]+)")
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_FILE = re.compile(r"<([^\s*\[()]+)")
_PARENTHESIS = re.compile(r"[()]")
_MAX_DIGITS = 40
_MAX_TEXT = 1024 * 1024
"""The most characters that are parsed, with those of all variables each time they are used."""

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _Given:
    """What all of the text has in common; *left* is how many characters may still be parsed."""

    def __init__(self, variables: Mapping[str, str], sources: Sources) -> None:
        self.variables = variables
        self.sources = sources
        self.left = _MAX_TEXT


def parse_data(text: str, variables: Mapping[str, str], sources: Sources) -> Expression:
    """Parse *text*, in which `$name` stands for one of *variables*, and which *sources* read for.

    Raises ValueError for a mistake, OSError for a file that cannot be read.
    """
    try:
        return _Parser(text, _Given(variables, sources), {}, ()).whole()
    except RecursionError:
        raise ValueError("the parentheses are nested too deeply") from None


class _Parser:
    """A parser at some position of one text.

    *names*: the expressions that have a name so far.  *inside*: the variables whose value is being
    parsed, outermost first.
    """

    def __init__(
        self,
        text: str,
        given: _Given,
        names: dict[str, Expression],
        inside: tuple[str, ...],
    ) -> None:
        self._text = text
        self._given = given
        self._names = names
        self._inside = inside
        self._position = 0
        self._item = 0  # where the item that is being parsed begins
        given.left -= len(text)
        if given.left < 0:
            raise self._error(f"with all variables there are more than {_MAX_TEXT} characters")

    def whole(self) -> Expression:
        """Parse all of the text."""
        result = self._sequence()
        if self._looking_at(")"):
            self._item = self._position
            raise self._error("this ')' has no '('")
        return result

    def _sequence(self) -> Expression:
        """Parse up to the end or a ')'.  Names given inside are not known after it."""
        outer, self._names = self._names, dict(self._names)
        result = Sequence()
        offset = 0
        while self._skip_blank() and not self._looking_at(")"):
            self._item = self._position
            if self._accept("@"):
                offset = self._move(offset)
                result.grow(offset)
            elif (expression := self._expression()) is not None:
                result.put(offset, expression)
                offset += expression.size
        self._names = outer
        return result.whole()

    def _move(self, offset: int) -> int:
        """Parse what follows an "@" and return the new offset."""
        if self._accept("^"):
            alignment = self._number()
            if alignment < 1 or alignment & (alignment - 1):
                raise self._error(f"@^{alignment}: an alignment is a power of 2")
            return -(-offset // alignment) * alignment
        if self._accept("+"):
            return offset + self._number()
        if self._accept("-"):
            distance = self._number()
            if distance > offset:
                raise self._error(f"@-{distance} goes back beyond the start, from offset {offset}")
            return offset - distance
        return self._number()

    # -- expressions ---------------------------------------------------------------------

    def _expression(self) -> Expression | None:
        """Parse an expression; return None if it only defines a name."""
        result = self._primary()
        while self._skip_blank():
            if self._accept("*"):
                self._skip_blank()
                result = repeat(result, self._number())
            elif self._accept("["):
                start, end = self._bounds()
                result = self._slice(result, start, result.size if end is None else end)
            elif self._accept("->"):
                self._skip_blank()
                self._names[self._match(_NAME, "a name like \\name")[1]] = result
                return None
            else:
                break
        return result

    def _primary(self) -> Expression:
        if self._accept("("):
            return self._group()
        if self._accept("<("):
            script = self._script()
            return literal(self._given.sources.script(script, self._limit()))
        for pattern, method in (
            (_STRING, self._string),
            (_WORD, self._word),
            (_NAME, self._named),
            (_VARIABLE, self._variable),
            (_FILE, self._file),
        ):
            if match := pattern.match(self._text, self._position):
                self._position = match.end()
                return method(match)
        if self._looking_at('"'):
            raise self._error("this '\"' is not followed by another")
        return literal(self._integer(1, "little"))

    def _group(self) -> Expression:
        start = self._position
        result = self._sequence()
        if not self._accept(")"):
            self._item = start - 1
            raise self._error("this '(' has no ')'")
        return result

    def _script(self) -> str:
        """Return the text up to the matching ")"."""
        start = self._position
        depth = 1
        while depth:
            match = _PARENTHESIS.search(self._text, self._position)
            if match is None:
                self._item = start - 2
                raise self._error("this '<(' has no ')'")
            depth += 1 if match[0] == "(" else -1
            self._position = match.end()
        return self._text[start : self._position - 1]

    def _string(self, match: re.Match[str]) -> Expression:
        return literal(b"".join(_unescaped(match[1])))

    def _word(self, match: re.Match[str]) -> Expression:
        byte_order: OneOf["little", "big"] = "little" if match[1] == "le" else "big"
        return literal(self._integer(int(match[2]) // 8, byte_order))

    def _named(self, match: re.Match[str]) -> Expression:
        if match[1] not in self._names:
            raise self._error(f"\\{match[1]} is not defined here: define it with -> \\{match[1]}")
        return self._names[match[1]]

    def _variable(self, match: re.Match[str]) -> Expression:
        name = match[1]
        if name not in self._given.variables:
            raise self._error(f"${name} is neither given as {name}=DATA nor in the environment")
        if name in self._inside:
            raise self._error(f"${name} is part of itself")
        inside = (*self._inside, name)
        return _Parser(self._given.variables[name], self._given, self._names, inside).whole()

    def _file(self, match: re.Match[str]) -> Expression:
        return literal(self._given.sources.file(match[1], self._limit()))

    # -- slices -------------------------------------------------------------------------

    def _bounds(self) -> tuple[int, int | None]:
        """Parse what follows a "["."""
        start = 0 if self._looking_at(":") else self._number()
        self._require(":")
        end = None if self._looking_at("]") else self._number()
        self._require("]")
        return start, end

    def _slice(self, expression: Expression, start: int, end: int) -> Expression:
        if not start <= end <= expression.size:
            raise self._error(f"[{start}:{end}] is not a part of {expression.size} bytes")
        return slice_of(expression, start, end)

    def _limit(self) -> int | None:
        """Look ahead for a slice, and return its end.

        No more has to be read of a file or a script, whose content may even be endless.
        """
        before = self._position
        self._skip_blank()
        end = self._bounds()[1] if self._accept("[") else None
        self._position = before
        return end

    # -- characters ---------------------------------------------------------------------

    def _skip_blank(self) -> bool:
        """Skip white space and comments; return whether something follows."""
        match = _BLANK.match(self._text, self._position)
        self._position = match.end() if match else self._position
        return self._position < len(self._text)

    def _looking_at(self, token: str) -> bool:
        return self._text.startswith(token, self._position)

    def _accept(self, token: str) -> bool:
        if not self._looking_at(token):
            return False
        self._position += len(token)
        return True

    def _require(self, token: str) -> None:
        if not self._accept(token):
            raise self._error(f"expected {token!r}")

    def _match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        match = pattern.match(self._text, self._position)
        if match is None:
            self._item = self._position
            raise self._error(f"expected {expected}")
        self._position = match.end()
        return match

    def _number(self, expected: str = "a number") -> int:
        digits = self._match(_NUMBER, expected)[0]
        if self._text[self._position : self._position + 1].isalnum():
            raise self._error("expected white space after the number, which may be 10, 0xa or 012")
        if len(digits) > _MAX_DIGITS:
            raise self._error("no number may be so large")
        if digits[:2] in ("0x", "0X"):
            return int(digits, 16)
        return int(digits, 8 if digits[0] == "0" else 10)

    def _integer(self, size: int, byte_order: OneOf["little", "big"]) -> bytes:
        value = self._number('a byte, "text", <file, @offset or another expression')
        if value >= 256**size:
            raise self._error(f"{value} is too large for {size} bytes")
        return value.to_bytes(size, byte_order)

    def _error(self, message: str) -> ValueError:
        place = "".join(f"in ${name}, " for name in self._inside)
        near = self._text[self._item :][:20].rstrip() or "the end"
        return ValueError(f"{place}at {near} (character {self._item}): {message}")


def _unescaped(text: str) -> Iterator[bytes]:
    position = 0
    for match in _ESCAPE.finditer(text):
        yield os.fsencode(text[position : match.start()])
        position = match.end()
        code = match[1]
        if code[0] == "x" and len(code) > 1:
            yield bytes([int(code[1:], 16)])
        elif code[0] in "01234567":
            yield bytes([int(code, 8) & 0xFF])
        else:
            yield os.fsencode(_ESCAPES.get(code, code))
    yield os.fsencode(text[position:])
