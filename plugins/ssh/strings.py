"""The strings of SFTP: each has its length before it (section 4)."""

import struct


def packed(text: bytes) -> bytes:
    """Return *text* as a string of the protocol."""
    return struct.pack(">I", len(text)) + text


def taken(body: bytes) -> tuple[bytes, bytes]:
    """Return the string at the start of *body*, and the rest; both may be cut off."""
    length = int.from_bytes(body[:4], "big")
    return body[4 : 4 + length], body[4 + length :]


def extensions(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the names and data of the extensions in a VERSION packet."""
    found, rest = [], body[4:]
    while rest:
        name, rest = taken(rest)
        data, rest = taken(rest)
        found.append((name, data))
    return found
