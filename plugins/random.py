"""The random plugin: a disk of random bytes, the same for every client.

The bytes are computed and not stored, so every worker has the same disk, of any size.  Without a
seed from the user they are the output of a hash of a secret seed and the number of a block, which
is fast.  With one they are those of nbdkit with this seed: each byte is the third number of
xoshiro256**, seeded by splitmix64 with the seed and the offset.  Then many are computed at once, as
lanes of one large integer.  Neither is a source of secrets.
"""

import errno
import hashlib
import secrets

from nbdfork.plugin import Needs, Parameter, Plugin, parse

BLOCK = 4096
SECTOR = 512
MAX_SEED = 2**32 - 1

_LANES = 1024
_LANE_BITS = 128  # twice of what it holds, for products
_ONES = sum(1 << _LANE_BITS * lane for lane in range(_LANES))
_INDICES = sum(lane << _LANE_BITS * lane for lane in range(_LANES))
_WORDS = _ONES * (2**64 - 1)
_STEP = 0x9E3779B97F4A7C15


def _seed(text: str) -> int:
    value = parse.size(text)
    if value > MAX_SEED:
        raise ValueError(f"expected a number from 0 to {MAX_SEED}")
    return value


_LOW = {bits: _ONES * ((1 << bits) - 1) for bits in (7, 8, 33, 34, 37)}
_STEPS = {step: _ONES * (_STEP * step % 2**64) for step in (1, 2, 4)}


def _right(lanes: int, bits: int) -> int:
    return lanes >> bits & _LOW[64 - bits]


def _splitmix(lanes: int, step: int) -> int:
    """Return, in each lane, the *step*-th number of splitmix64."""
    lanes = (lanes + _STEPS[step]) & _WORDS
    lanes = (lanes ^ _right(lanes, 30)) * 0xBF58476D1CE4E5B9 & _WORDS
    lanes = (lanes ^ _right(lanes, 27)) * 0x94D049BB133111EB & _WORDS
    return lanes ^ _right(lanes, 31)


def _bytes(start: int, count: int) -> bytes:
    """Return up to `_LANES` bytes: the one at *start* of all that there are, and those after it."""
    seeds = _ONES * start + _INDICES
    first, second, fourth = (_splitmix(seeds, step) for step in (1, 2, 4))
    state = (first ^ fourth ^ (second << 17)) & _WORDS
    state = state * 5 & _WORDS
    rotated = (state & _ONES) << 7 | _right(state, 57)  # the last byte of it, by 7 bits
    found = rotated * 9 & _LOW[8]
    return found.to_bytes(_LANES * _LANE_BITS // 8, "little")[: count * 16 : 16]


class Random(Plugin):
    """a disk of random bytes, which can be computed again from the seed"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )
    fast = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="repeat one sector, little changed"
    )
    seed = Parameter(_seed, metavar="SEED", help="a number; the same one, the same disk")

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        # Chosen before the fork, so that all workers have the same seed.
        self._variants: dict[int, bytes] = {}
        self._seed = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed

    def get_size(self) -> int:
        return self.size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        if self.fast:
            return self._fast(count, offset)
        start = self._seed + offset
        if self.seed is None:
            return self._hashed(count, offset)
        pieces = (
            _bytes(start + done, min(_LANES, count - done)) for done in range(0, count, _LANES)
        )
        return b"".join(pieces)

    def _hashed(self, count: int, offset: int) -> bytes:
        first, last = offset // BLOCK, (offset + count - 1) // BLOCK
        blocks = (b"%d/%d" % (self._seed, number) for number in range(first, last + 1))
        data = b"".join(hashlib.shake_128(block).digest(BLOCK) for block in blocks)
        return data[offset - first * BLOCK :][:count]

    def _fast(self, count: int, offset: int) -> bytes:
        """Return the same sector again and again, each with the number of the sector in it."""
        sectors = range(offset // SECTOR, (offset + count - 1) // SECTOR + 1)
        data = b"".join(self._variant(number & 0xFF) for number in sectors)
        skip = offset % SECTOR
        return data[skip : skip + count]

    def _variant(self, number: int) -> bytes:
        if number not in self._variants:
            changed = bytes(value ^ number for value in range(256))
            self._variants[number] = _bytes(self._seed, SECTOR).translate(changed)
        return self._variants[number]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        """Succeed if nothing changes: a client that copies the disk to itself is tested."""
        if data != self.pread(len(data), offset):
            raise OSError(errno.EIO, "what is written is not what is read at this offset")

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: the content is computed."""
