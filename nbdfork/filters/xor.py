"""The xor filter: combine the disk with a value, byte by byte, by exclusive or.

This hides content from those who do not look; it is no encryption.
"""

import hashlib
import re
from typing import Protocol

from nbdfork.plugin import (
    Buffer,
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)

_BLOCK = 4096


def _key(text: str) -> str:
    if not re.fullmatch(r"rand(:[0-9]+)?|0x[0-9a-fA-F]+|[0-9]+", text, re.ASCII):
        raise ValueError("expected a number, such as 0xDEADBEEF, or rand, or rand:SEED")
    return text


class Xor(Filter):
    """combine the disk with a value"""

    xor = Parameter(
        _key, required=True, metavar="VALUE|rand[:SEED]", help="what the disk is combined with"
    )
    xorlen = Parameter(
        parse.whole(1, 8), metavar="BYTES", help="how many bytes the value has, from 1 to 8"
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        if self.xor.startswith("rand"):
            if self.xorlen is not None:
                raise ConfigError(f"xor: xorlen= is of no use with xor={self.xor}")
            self._stream: Stream = Random(int(self.xor.partition(":")[2] or "0"))
            return
        if self.xorlen is None:
            raise ConfigError(f"xor: how many bytes has xor={self.xor}? give xorlen=")
        value = int(self.xor, 16 if self.xor.startswith("0x") else 10) % 256**self.xorlen
        self._stream = Repeated(value.to_bytes(self.xorlen, "big"))

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return XorExport(next, self._stream)


class Stream(Protocol):
    """Bytes without an end."""

    def read(self, count: int, offset: int) -> bytes:
        """Return *count* bytes from *offset*."""


class Repeated:
    """*value*, again and again."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def read(self, count: int, offset: int) -> bytes:
        length = len(self._value)
        skipped = offset % length
        return (self._value * ((skipped + count) // length + 1))[skipped : skipped + count]


class Random:
    """Bytes that look random; the same *seed*, the same bytes."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def read(self, count: int, offset: int) -> bytes:
        first, last = offset // _BLOCK, -(-(offset + count) // _BLOCK)
        blocks = (
            hashlib.shake_128(b"xor %d/%d" % (self._seed, number)).digest(_BLOCK)
            for number in range(first, last)
        )
        return b"".join(blocks)[offset - first * _BLOCK :][:count]


class XorExport(FilterExport):
    """*next*, of which each byte is combined with that of *stream* at its place.

    What are zeroes below are none here.
    """

    def __init__(self, next: Export, stream: Stream) -> None:
        super().__init__(next)
        self._stream = stream

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def can_zero(self) -> bool:
        return False

    def can_fast_zero(self) -> bool:
        return True  # it tells at once that it is none

    def can_extents(self) -> bool:
        return False

    def pread(self, count: int, offset: int) -> Buffer:
        return self._combined(self.next.pread(count, offset), offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.next.pwrite(memoryview(self._combined(data, offset)), offset, flags)

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Write zeroes as they are seen here, so that they are read."""
        self.write_zeroes(count, offset, flags)

    def _combined(self, data: Buffer, offset: int) -> bytes:
        count = len(data)
        one = int.from_bytes(data, "little")
        two = int.from_bytes(self._stream.read(count, offset), "little")
        return (one ^ two).to_bytes(count, "little")
