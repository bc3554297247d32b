"""Damaged images, made by mutation: right bytes or EIO with a reason, never other bytes."""

import errno
import random
from collections.abc import Iterator
from functools import cache

import pytest

from nbdfork.plugin import Export
from tests.support.compressed import Below, compressed, filter_of, need_libraries

KIB = 1024
PIECE = 20_000  # bytes that are read at a time

CHANCE = random.Random(1)
CONTENT = (
    CHANCE.randbytes(40 * KIB)
    + bytes(30 * KIB)
    + b"".join(b"line %d\n" % CHANCE.randrange(10**9) for _ in range(9000))
)

HALF = len(CONTENT) // 2


def glued(name: str, command: str) -> bytes:
    return b"".join(compressed(name, part, command) for part in (CONTENT[:HALF], CONTENT[HALF:]))


IMAGES = {
    "gzip": lambda: compressed("gzip", CONTENT, "gzip"),
    "gzip members": lambda: glued("gzip", "gzip"),
    "xz": lambda: compressed("xz", CONTENT, "xz -0 --block-size=32KiB"),
    "xz streams": lambda: glued("xz", "xz -0"),
    "bzip2": lambda: compressed("bzip2", CONTENT, "bzip2 -1"),
    "bzip2 members": lambda: glued("bzip2", "bzip2"),
    "zstd": lambda: compressed("zstd", CONTENT, "zstd -q"),
    "zstd frames": lambda: glued("zstd", "zstd -q"),
    "lz4": lambda: compressed("lz4", CONTENT, "lz4 -q"),
    "lz4 frames": lambda: glued("lz4", "lz4 -q"),
}


@cache
def image(name: str) -> bytes:
    need_libraries(name.split()[0])
    return IMAGES[name]()


def mutants(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield damaged *data*, each with what was done to them; the same in every run."""
    chance = random.Random(len(data))
    size = len(data)
    for number in range(count):
        place = chance.choice((range(64), range(64, size - 64), range(size - 64, size))[number % 3])
        length = chance.choice((1, 2, 8, 300))
        kind = chance.choice(("bit", "noise", "zeroes", "cut out", "put in", "cut off"))
        after = data[place + length :]
        changed = {
            "bit": bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :],
            "noise": chance.randbytes(length) + after,
            "zeroes": bytes(length) + after,
            "cut out": after,
            "put in": chance.randbytes(length) + data[place:],
            "cut off": b"",
        }[kind]
        yield f"{kind}, {length} at {place} of {size}", data[:place] + changed


def fails_at_the_end(export: Export) -> bool:
    try:
        export.pread(1, export.get_size() - 1)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def what_is_wrong(export: Export) -> str:
    size = export.get_size()
    if size < len(CONTENT) and not fails_at_the_end(export):
        return f"only {size} bytes, in silence"
    for offset in range(0, size, PIECE):
        count = min(PIECE, size - offset)
        try:
            found = bytes(export.pread(count, offset))
        except OSError as error:
            if error.errno != errno.EIO or not str(error.strerror).startswith("disk "):
                return f"error {error!r}"
            continue
        if found != CONTENT[offset : offset + count]:
            return f"other bytes at {offset}"
    return ""


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("scratch", ["0", "1M"])
def test_damaged_images(name: str, scratch: str) -> None:
    kind = name.split()[0]
    layer = filter_of(kind, **{f"{kind}_scratch": scratch})
    wrong = []
    for number, (what, data) in enumerate(mutants(image(name), 60)):
        try:
            export = layer.unpack(Below(data), f"disk {number}")
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EIO) or "disk " not in str(error):
                wrong.append((what, repr(error)))
            continue
        if text := what_is_wrong(export):
            wrong.append((what, text))
        export.close()
    assert wrong == []
