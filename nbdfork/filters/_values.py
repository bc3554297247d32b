"""Parsers for values of parameters that several filters have."""

import re
from collections.abc import Callable

from nbdfork.plugin import parse

LONGEST = 30 * 24 * 3600.0


def seconds(text: str) -> float:
    """Parse a time: "2" or "0.5" seconds, or "100ms", "5us" or "5ns"; up to 30 days."""
    value = parse.delay(text)
    if value > LONGEST:
        raise ValueError("too long: the limit is 30 days")
    return value


def probability(text: str) -> float:
    """Parse a probability: "0.5", "1e-8", "50%" or "1:1000"."""
    value = parse.probability(text)
    if value > 1:
        raise ValueError("expected a probability from 0 to 1, or from 0% to 100%")
    return value


def power_of_2(least: int, most: int, words: str) -> Callable[[str], int]:
    """Return a parser of sizes that are powers of 2 from *least* to *most*, as *words* say."""

    def parsed(text: str) -> int:
        value = parse.size(text)
        if not least <= value <= most or value & (value - 1):
            raise ValueError(f"expected a power of 2 {words}")
        return value

    return parsed


def offset_number(text: str) -> int:
    """Parse a number as C has it: decimal, 0x and hexadecimal, or 0 and octal."""
    if re.fullmatch(r"0[0-7]+", text, re.ASCII):
        value = int(text, 8)
    elif re.fullmatch(r"0x[0-9a-fA-F]+|0|[1-9][0-9]*", text, re.ASCII):
        value = int(text, 0)
    else:
        raise ValueError("an offset is a number such as 512, 0x200 or 01000")
    if value >= parse.MAX_SIZE:
        raise ValueError("too large: the limit is 2^63-1 bytes")
    return value


def when(text: str) -> bool | str:
    """Parse a truth value, or the absolute path of the file that makes it true."""
    if text.startswith("/"):
        return text
    try:
        return parse.boolean(text)
    except ValueError:
        raise ValueError("expected true, false, or an absolute path") from None
