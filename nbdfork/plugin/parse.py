"""Parsers for the values of parameters and options.

Each takes the text the user typed and returns the value, or raises ValueError with a message
that completes "PLUGIN: KEY=VALUE: ...".
"""

import math
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


_DELAYS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}

_REAL = r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


def size(text: str) -> int:
    """Parse a number of bytes: "512", "10k", "1G"; suffixes b s(ectors) k M G T P E.

    As in C, digits after 0x are hexadecimal, and those after any other 0 octal.
    """
    match = re.fullmatch(r"\+?(0x[0-9a-f]+|[0-9]+)([a-z]?)", text.strip(), re.ASCII | re.I)
    unit = _SUFFIXES.get(match[2].lower()) if match else None
    try:
        value = _whole_in_c(match[1]) * unit if match and unit else None
    except ValueError:  # an 8 or a 9 in an octal number
        value = None
    if value is None:
        raise ValueError(f"not a size: {_how_to_write(text.strip())}")
    if value > MAX_SIZE:
        raise ValueError("too large: the limit is 2^63-1 bytes")
    return value


def _whole_in_c(digits: str) -> int:
    if digits[:2].lower() == "0x":
        return int(digits, 16)
    return int(digits, 8 if digits.startswith("0") else 10)


def _how_to_write(text: str) -> str:
    """Return how to write a size, for *text* that is none."""
    if match := re.fullmatch(r"([0-9]+)([kmgtpe])i?b", text, re.ASCII | re.IGNORECASE):
        power = _SUFFIXES[match[2].lower()].bit_length() - 1
        return f"write {match[1]}{match[2].upper()}, that is {match[1]} times 2^{power} bytes"
    return "write a number of bytes in decimal digits, or use a suffix as in 512k, 10M, 1G"


def delay(text: str) -> float:
    """Parse a time, and return seconds: "2", "0.5", "100ms"; suffixes s ms us ns."""
    match = re.fullmatch(rf"({_REAL})(\D*)", text)
    unit = _DELAYS.get(match[2]) if match else None
    if match is None or unit is None:
        raise ValueError("expected a number of seconds, as in 2 or 0.5, or a time as in 100ms")
    value = float(match[1]) * unit
    if value >= 2**32:
        raise ValueError("too long: the limit is 2^32 seconds")
    return value


def probability(text: str) -> float:
    """Parse how probable something is: "0.1", "10%", "1:10" or "1/10"; it may be more than 1."""
    match = re.fullmatch(rf"({_REAL})(?:%|[:/]({_REAL}))?", text)
    if match is None:
        raise ValueError("expected a probability, as in 0.1, 10%, 1:10 or 1/10")
    number, divisor = float(match[1]), float(match[2] or 1)
    if text.endswith("%"):
        divisor = 100.0
    if (number and not divisor) or number == math.inf:
        raise ValueError("expected a probability, and not without end")
    return number / divisor if number else 0.0


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


__all__ = ["MAX_SIZE", "boolean", "choice", "delay", "path", "probability", "size", "whole"]
