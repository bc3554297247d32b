"""Compressed disks, made once for all tests of the filters that unpack them."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compressed import COMMANDS, OPEN, SIZE, compressed


@pytest.fixture(scope="session")
def content() -> bytes:
    """A disk with noise, zeroes and text."""
    chance = random.Random(1)
    parts: list[bytes] = []
    while sum(len(part) for part in parts) < SIZE:
        words = b"".join(b"%d of the words\n" % chance.randrange(10**6) for _ in range(9000))
        parts += [chance.randbytes(300_000), bytes(500_000), words]
    return b"".join(parts)[:SIZE]


@pytest.fixture(scope="session")
def files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The disk in each format."""
    directory = tmp_path_factory.mktemp("compressed")
    found = {}
    for name in COMMANDS:
        found[name] = directory / f"disk.{name}"
        found[name].write_bytes(compressed(name, content))
    return found


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Close what was opened, or rapidgzip aborts the process in the end."""
    yield
    while OPEN:
        OPEN.pop().close()
