"""Parsers for the values of parameters and options.

Each takes the text the user typed and returns the value, or raises ValueError with a message
that completes "PLUGIN: KEY=VALUE: ...".
"""

import os
import re
from collections.abc import Callable

MAX_SIZE = 2**63 - 1
"""The largest export: clients keep sizes and offsets in signed 64-bit integers."""

_SUFFIXES = {
    "": 1,
    "b": 1,
    "s": 512,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "p": 2**50,
    "e": 2**60,
}

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})


def size(text: str) -> int:
    """Parse a number of bytes: "512", "10k", "1G"; suffixes b s(ectors) k M G T P E."""
    match = re.fullmatch(r"([0-9]+)([A-Za-z]?)", text.strip(), re.ASCII)
    unit = _SUFFIXES.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"not a size: {_how_to_write(text.strip())}")
    value = int(match[1]) * unit
    if value > MAX_SIZE:
        raise ValueError("too large: the limit is 2^63-1 bytes")
    return value


def _how_to_write(text: str) -> str:
    """Return how to write a size, for *text* that is none."""
    if match := re.fullmatch(r"([0-9]+)([kmgtpe])i?b", text, re.ASCII | re.IGNORECASE):
        power = _SUFFIXES[match[2].lower()].bit_length() - 1
        return f"write {match[1]}{match[2].upper()}, that is {match[1]} times 2^{power} bytes"
    return "write a number of bytes in decimal digits, or use a suffix as in 512k, 10M, 1G"


def path(text: str) -> str:
    """Parse a file name and make it absolute, because a daemon changes its directory."""
    if not text:
        raise ValueError("a file name is expected")
    return os.path.abspath(text)


def boolean(text: str) -> bool:
    """Parse a truth value: true, yes, on, 1, or false, no, off, 0."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("expected true or false")


def choice(*words: str) -> Callable[[str], str]:
    """Return a parser that takes one of *words*."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected one of: {', '.join(words)}")
        return text

    return parse


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from *least* to *most*."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return int(text)

    return parse


__all__ = ["MAX_SIZE", "boolean", "choice", "path", "size", "whole"]
