"""Where each key of a TOML document stands, which the standard library's tomllib does not tell.

The document has been read by tomllib already: it is taken for granted that it is well-formed.
The syntax is that of TOML 1.0, https://toml.io/en/v1.0.0.
"""

import re
import tomllib
from bisect import bisect_right
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The way to a value from the top of the document: keys of tables, and places in arrays."""

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?""""{0,2}' + r"|'''.*?''''{0,2}" + r'|"(?:\\.|[^"\\])*"' + r"|'[^']*'",
    re.DOTALL,
)
_OTHER = re.compile(r"[^,\]}\n#]+")
"""A number, a truth value or a time, which may have a space in it."""


def lines(text: str) -> dict[Path, int]:
    """Return the number of the line, from 1, on which each key or array element of *text* is."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    """Goes through a document once, from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._arrays: dict[Path, int] = {}  # arrays of tables, and how many each has
        self.found: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip(_SPACE) and self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._text.startswith("[", self._at):
                table = self._header(1)
            else:
                self._pair(table)

    def _header(self, brackets: int) -> Path:
        """Go past the header of a table; return the path of that."""
        line = self._line()
        self._at += brackets
        *above, last = self._key()
        self._at += brackets
        path: Path = ()
        for key in above:
            path = self._latest((*path, key))
            self.found.setdefault(path, line)
        path = (*path, last)
        self.found.setdefault(path, line)
        if brackets == 2:
            self._arrays[path] = self._arrays.get(path, 0) + 1
            path = self._latest(path)
            self.found[path] = line
        return path

    def _latest(self, path: Path) -> Path:
        """Return the path of the last table at *path*, if that is an array of tables."""
        return (*path, self._arrays[path] - 1) if path in self._arrays else path

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._key():
            path = (*path, key)
            self.found.setdefault(path, line)
        self._at += 1  # the "="
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        begin = self._text[self._at]
        if begin == "[":
            self._array(path)
        elif begin == "{":
            self._inline_table(path)
        elif begin in "\"'":
            self._take(_STRING)
        else:
            self._take(_OTHER)

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip(_SPACE) and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self.found[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip(_SPACE) and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
            else:
                self._pair(path)
        self._at += 1

    def _key(self) -> list[str]:
        """Take a key with its dots, and what is blank around it."""
        parts = []
        while True:
            self._skip(_BLANK)
            if self._text[self._at] in "\"'":
                parts.append(str(tomllib.loads(f"key = {self._take(_STRING)}")["key"]))
            else:
                parts.append(self._take(_BARE_KEY))
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _skip(self, what: re.Pattern[str]) -> bool:
        self._take(what)
        return True

    def _take(self, what: re.Pattern[str]) -> str:
        match = what.match(self._text, self._at)
        assert match is not None, f"no TOML at {self._at}"
        self._at = match.end()
        return match[0]

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)
