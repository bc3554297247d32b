"""The data of the options of the handshake: what a client sends, and how it must look.

All that parses raises `Invalid`.
"""

from collections.abc import Sequence

from nbdfork.protocol import wire
from nbdfork.types import Buffer


class Invalid(Exception):
    """The option's data are malformed."""


def expect_empty(data: bytes) -> None:
    """Raise `Invalid` for an option that has data and should have none."""
    if data:
        raise Invalid(f"{len(data)} bytes of data where none belong")


def string(data: Buffer) -> str:
    """Decode a string from a client: UTF-8, no NUL, at most `wire.MAX_STRING` bytes."""
    if len(data) > wire.MAX_STRING:
        raise Invalid(f"a string of {len(data)} bytes")
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError:
        raise Invalid("a string that is not UTF-8") from None
    if "\0" in text:
        raise Invalid("a string with a NUL")
    return text


def parse_info_request(data: bytes) -> tuple[str, set[int]]:
    """Parse the data of INFO and GO: name length, name, count, that many info types."""
    name, infos = _split_string(data)
    (count,) = wire.UINT16.unpack(infos[:2].ljust(2, b"\0"))
    if len(infos) != 2 + 2 * count:
        raise Invalid("the number of info types does not fit the data")
    return name, {wire.UINT16.unpack_from(infos, 2 + 2 * i)[0] for i in range(count)}


def parse_queries(data: bytes) -> tuple[str, Sequence[str]]:
    """Parse the data of LIST and SET_META_CONTEXT: export name, count, that many queries."""
    name, rest = _split_string(data)
    if len(rest) < 4:
        raise Invalid("the data are too short")
    (count,) = wire.UINT32.unpack_from(rest)
    rest = rest[4:]
    queries = []
    while rest:
        query, rest = _split_string(rest)
        queries.append(query)
    if len(queries) != count:
        raise Invalid("the number of queries does not fit the data")
    return name, queries


def _split_string(data: bytes) -> tuple[str, bytes]:
    """Return the string that *data* begin with, its length first, and what comes after it."""
    if len(data) < 4:
        raise Invalid("the data are too short")
    (length,) = wire.UINT32.unpack_from(data)
    if length > len(data) - 4:
        raise Invalid("a string is longer than the data")
    return string(data[4 : 4 + length]), data[4 + length :]
