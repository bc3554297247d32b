"""Names on a FAT file system: each file has a long one, and a short one for old systems.

Names in a directory must differ in more than case.
"""

import itertools
import re
from collections import Counter
from typing import NamedTuple

MAX_LONG = 255
"""The longest long name, in UTF-16 code units."""

_NOT_IN_LONG = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|\udc80-\udcff]')  # the last: no UTF-8
_NOT_IN_SHORT = re.compile(r"[^A-Z0-9!#$%&'()@^_`{}~-]")
_SHORT = re.compile(r"([A-Z0-9_-]{1,8})(?:\.([A-Z0-9_-]{1,3}))?")


class Name(NamedTuple):
    """*long* is empty if the short name suffices; *short* is padded with blanks."""

    long: str
    short: bytes


class Names:
    """Chooses names for the files of one directory, so that no two of them are equal."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._tails: Counter[str] = Counter()

    def choose(self, name: str) -> Name:
        """Return names for a file called *name*, changed as little as possible."""
        long = self._choose_long(_clean(name))
        if match := _SHORT.fullmatch(long):
            return Name("", _padded(match[1], match[2] or ""))
        return Name(long, self._choose_short(long))

    def _choose_long(self, name: str) -> str:
        stem, extension = _split(name)
        for number in itertools.count():
            suffix = f"_{number}" if number else ""
            long = _cut(stem, MAX_LONG - len(suffix) - _length(extension)) + suffix + extension
            if long.upper() not in self._taken:
                break
        self._taken.add(long.upper())
        return long

    def _choose_short(self, long: str) -> bytes:
        """Return a short name that ends with "~" and a number."""
        stem, extension = _split(long.upper())
        stem = _NOT_IN_SHORT.sub("_", stem.replace(" ", "").replace(".", ""))
        extension = _NOT_IN_SHORT.sub("_", extension[1:].replace(" ", ""))[:3]
        kind = stem[:1] + extension
        while True:
            self._tails[kind] += 1  # continue with the last number, or large directories take long
            tail = f"~{self._tails[kind]}"
            start = stem[: 8 - len(tail)] + tail
            shown = f"{start}.{extension}".rstrip(".")
            if shown not in self._taken:
                break
        self._taken.add(shown)
        return _padded(start, extension)


def _padded(stem: str, extension: str) -> bytes:
    return f"{stem:8}{extension:3}".encode()


def _clean(name: str) -> str:
    """Replace characters that a long name cannot have, and dots and blanks at its end."""
    name = _NOT_IN_LONG.sub("_", name)
    return name if name == name.rstrip(". ") else name.rstrip(". ") + "_"


def _split(name: str) -> tuple[str, str]:
    """Return the name and its extension, with the dot, if that is not too long."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem.strip(".") and len(extension) < 64 else (name, "")


def _length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _cut(text: str, most: int) -> str:
    while _length(text) > most:
        text = text[:-1]
    return text
