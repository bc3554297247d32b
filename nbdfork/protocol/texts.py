"""Texts on their way to a client: the strings of the protocol, and what people are to read.

A text that comes from a plugin may be anything: Python gives the bytes of file names that are not
UTF-8 as surrogates, which cannot be encoded.
"""

import re

from nbdfork.protocol import wire

_ACTING = re.compile(r"[\x01-\x08\x0b-\x1f\x7f-\x9f]")  # not tab and newline

NO_STRING = f"not UTF-8, longer than {wire.MAX_STRING} bytes, or with a NUL in it"
"""What is wrong with a text that `encoded` returns None for."""


def encoded(text: str) -> bytes | None:
    """Return *text* as it is sent, or None for what is no string of the protocol."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return None
    return data if len(data) <= wire.MAX_STRING and b"\0" not in data else None


def _escape(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"


def readable(text: str, most: int) -> bytes:
    """Return *text* for people to read: what cannot be sent, or would act on a terminal, is written
    as an escape.

    It is cut at *most* bytes, and not within a character.
    """
    shown = _ACTING.sub(_escape, text[: most + 1].replace("\0", "\\0"))
    data = shown.encode(errors="backslashreplace")
    return data if len(data) <= most else data[:most].decode(errors="ignore").encode()
