"""The evil filter: read some bits wrong, to see who notices.

What is written is right.  Ranges that read as zeroes because they are holes stay as they are.
"""

import hashlib
import math
import random
import secrets
from collections.abc import Iterator

from nbdfork.filters import clipped
from nbdfork.filters._values import probability
from nbdfork.plugin import (
    ZERO,
    Buffer,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)

_LEAST = 1e-12
_MOST = 1 / 8
_DEFAULTS = {"cosmic-rays": 1e-8, "stuck-bits": 1e-8, "stuck-wires": 1e-6}
_BLOCK = 64 * 1024  # bytes whose stuck bits are drawn together
_MOST_SEED = 2**64 - 1


class Evil(Filter):
    """read some bits wrong"""

    evil = Parameter(
        parse.choice(*_DEFAULTS),
        default="stuck-bits",
        metavar="cosmic-rays|stuck-bits|stuck-wires",
        help="which bits",
    )
    evil_probability = Parameter(
        probability, metavar="P", help="of a bit; 1e-8, or 1e-6 of a wire, if not given"
    )
    evil_stuck_probability = Parameter(
        probability, default=1.0, metavar="P", help="that a stuck bit is read as it is stuck"
    )
    evil_seed = Parameter(
        parse.whole(0, _MOST_SEED), metavar="SEED", help="a number; the same one, the same bits"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        # Chosen before the fork, so that the same bits are stuck for all clients.
        seed = secrets.randbelow(_MOST_SEED) if self.evil_seed is None else self.evil_seed
        chance = self.evil_probability
        chance = _DEFAULTS[self.evil] if chance is None else chance
        if chance < _LEAST:
            chance = 0.0
        elif chance > _MOST:
            chance = 1.0
        self._bits = Bits(self.evil, seed, chance, self.evil_stuck_probability)

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return EvilExport(next, self._bits)


class Bits:
    """Which bits are wrong, with the *chance* that a bit is one of them."""

    def __init__(self, mode: str, seed: int, chance: float, stuck: float) -> None:
        self._mode = mode
        self._seed = seed
        self._chance = chance
        self._stuck = stuck
        self._random = random.Random(seed)

    def spoil(self, data: bytearray, place: int, position: int) -> None:
        """Change *data*, which is from *place* of the disk, and from *position* of what is sent."""
        if self._mode == "cosmic-rays":
            for bit in self._drawn(self._random, len(data) * 8):
                data[bit >> 3] ^= 1 << (bit & 7)
            return
        start = place if self._mode == "stuck-bits" else position
        for offset, mask, value in self._stuck_from(start, len(data)):
            if self._stuck >= 1 or self._random.random() < self._stuck:
                data[offset] = data[offset] & ~mask | value

    def _stuck_from(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (offset from *start*, mask, value) of each stuck bit in *count* bytes."""
        for block in range(start // _BLOCK, -(-(start + count) // _BLOCK)):
            key = hashlib.sha256(f"{self._mode} {self._seed} {block}".encode()).digest()
            chance = random.Random(key)
            for bit in self._drawn(chance, _BLOCK * 8):
                mask = 1 << (bit & 7)
                value = mask if chance.random() < 0.5 else 0
                offset = block * _BLOCK + (bit >> 3) - start
                if 0 <= offset < count:
                    yield offset, mask, value

    def _drawn(self, chance: random.Random, bits: int) -> Iterator[int]:
        """Yield the numbers of bits that are drawn, each with the same probability."""
        if self._chance >= 1:
            yield from range(bits)
        elif self._chance > 0:
            scale = math.log1p(-self._chance)
            bit = -1
            while (bit := bit + 1 + int(math.log(1.0 - chance.random()) / scale)) < bits:
                yield bit


class EvilExport(FilterExport):
    """*next*, of which some *bits* are read wrong."""

    def __init__(self, next: Export, bits: Bits) -> None:
        super().__init__(next)
        self._bits = bits
        self._knows_holes = next.can_extents()

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def pread(self, count: int, offset: int) -> Buffer:
        data = bytearray(self.next.pread(count, offset))
        view = memoryview(data)
        for start, length in self._data(count, offset):
            part = bytearray(view[start - offset : start - offset + length])
            self._bits.spoil(part, start, start - offset)
            view[start - offset : start - offset + length] = part
        return data

    def _data(self, count: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yield offset and length of the parts of a range that are not known to be zeroes."""
        end = offset + count
        while offset < end and self._knows_holes:
            start = offset
            for part in clipped(self.next.extents(end - offset, offset, 0), offset, end):
                if not part.type & ZERO:
                    yield part.offset, part.length
                offset = part.offset + part.length
            if offset == start:
                break  # it has told of nothing
        if offset < end:
            yield offset, end - offset
