"""The values of options: what is made of the text of an argument.

Each function raises ValueError, with a message for the user, if nothing can be.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbdfork.plugin import parse
from nbdfork.server.sandbox.limits import LIMITS, SIZES, UNLIMITED

if TYPE_CHECKING:
    from nbdfork.server.admission import Rule

_MOST = 1_000_000
_NO_USER = 2**32 - 1


def text(text: str) -> str:
    """Take the argument as it is."""
    return text


def port(text: str) -> str:
    """Parse a port: a number, which for vsock may be large, or the name of a service."""
    if text.isdecimal() and int(text) >= 2**32 - 1:
        raise ValueError("a port is at most 65535, or 4294967294 with --vsock")
    if not text:
        raise ValueError("a port number or a service name is expected")
    return text


def rule(text: str) -> "Rule":
    """Parse who is meant by --allow and --deny."""
    from nbdfork.server.admission import Rule

    return Rule.parse(text)


def permissions(text: str) -> int:
    """Parse the permissions of a file."""
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise ValueError("three octal digits are expected, such as 660")
    return int(text, 8)


def user_range(text: str) -> tuple[int, int]:
    """Parse the first and the last of a range of user IDs."""
    match = re.fullmatch(r"([0-9]+)-([0-9]+)", text, re.ASCII)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < first <= last < _NO_USER:
        raise ValueError("two numbers of users other than root are expected, such as 5000-5255")
    return first, last


def mask(text: str) -> int:
    """Parse 16 bits."""
    value = int(text, 0) if re.fullmatch(r"0[xX][0-9a-fA-F]+|0|[1-9][0-9]*", text) else -1
    if not 0 <= value <= 0xFFFF:
        raise ValueError("a number up to 0xffff is expected")
    return value


def debug_flag(text: str) -> tuple[str, str, int]:
    """Parse what a flag belongs to, its name and its value."""
    match = re.fullmatch(r"([^.=]+)\.([^=]+)=([0-9]+)", text, re.ASCII)
    if match is None:
        raise ValueError("expected nbdfork.FLAG=N, PLUGIN.FLAG=N or FILTER.FLAG=N")
    return match[1], match[2], int(match[3])


def limit(text: str) -> tuple[str, int]:
    """Parse the name of a limit, and the limit."""
    name, _, value = text.partition("=")
    if name not in LIMITS:
        raise ValueError(f"a limit is one of: {', '.join(LIMITS)}; as in {LIMITS[0]}=0")
    if value == "unlimited":
        return name, UNLIMITED
    return name, parse.size(value) if name in SIZES else parse.whole(0, _MOST)(value)


def destination(text: str) -> str | None:
    """Parse where messages go; None is the default."""
    return None if text == "default" else path_or("stderr", "syslog", "null")(text)


def path_or(*words: str) -> Callable[[str], str]:
    """Return a parser of a path, made absolute, or one of *words*."""
    return lambda text: text if text in words else parse.path(text)
