"""Several clients of one disk at random, and a model of what it must hold."""

import random
from typing import Any

from tests.support.libnbd import libnbd

MIB = 1 << 20
SIZE = 4 * MIB
CLIENTS = 4
BATCH = 8
"""So many requests each client has under way at once, no two of them for the same bytes."""


class Model:
    """What the disk must hold; where a trim has been, it may hold anything."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.known = bytearray(b"\xff" * SIZE)

    def write(self, offset: int, data: bytes) -> None:
        """From now on there is *data*."""
        self.data[offset : offset + len(data)] = data
        self.known[offset : offset + len(data)] = b"\xff" * len(data)

    def forget(self, offset: int, count: int) -> None:
        """From now on there may be anything."""
        self.known[offset : offset + count] = bytes(count)

    def check(self, offset: int, found: bytes | bytearray) -> None:
        """Fail unless this may be what a client has *found*."""
        part = slice(offset, offset + len(found))
        found_bits, bits, known = (
            int.from_bytes(data, "big") for data in (found, self.data[part], self.known[part])
        )
        assert not (found_bits ^ bits) & known


def connect(uri: str) -> Any:
    """Connect to *uri*, with base:allocation, for as long as the handle is kept."""
    client = libnbd().NBD()
    client.add_meta_context("base:allocation")
    client.connect_uri(uri)
    return client


def ranges(chance: random.Random) -> list[tuple[int, int]]:
    """Return ranges that do not overlap, most of them short, in no order."""
    cuts = sorted(chance.sample(range(SIZE + 1), 2 * CLIENTS * BATCH))
    found = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=True):
        count = min(end - start, chance.choice([512, 4096, 70_000, 300_000]))
        found.append((start, count))
    chance.shuffle(found)
    return found
