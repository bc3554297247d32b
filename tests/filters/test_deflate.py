"""Decoding by zlib: what comes out is what Python's own module makes of the same bytes."""

import ctypes
import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.filters import _deflate, _source
from nbdfork.filters import gzip as gzip_filter
from nbdfork.plugin import ConfigError
from tests.support.compressed import Below


def decoded(inflater: _deflate.Inflater, data: bytes, step: int, most: int) -> bytes:
    """Return what comes out if *data* go in by *step* bytes, and *most* are wanted at a time."""
    found = b""
    for start in range(0, len(data), step):
        found += inflater.decompress(data[start : start + step], most)
        while not (inflater.eof or inflater.needs_input):
            found += inflater.decompress(b"", most)
        if inflater.eof:
            inflater.unused_data += data[start + step :]
            break
    return found


@given(st.binary(max_size=2000), st.integers(0, 9), st.integers(1, 500), st.integers(1, 500))
def test_it_does_not_matter_in_which_parts(
    content: bytes, level: int, step: int, most: int
) -> None:
    data = gzip.compress(content * 50, level)
    inflater = _deflate.Inflater()
    for _ in range(2):
        assert decoded(inflater, data + b"more", step, most) == content * 50
        assert (inflater.eof, inflater.unused_data) == (True, b"more")
        assert (inflater.taken, inflater.given) == (len(data), 50 * len(content))
        inflater.reset()


@given(st.integers(10, 3000), st.integers(1, 255))
def test_of_damaged_data_the_good_part_comes_first(place: int, change: int) -> None:
    content = random.Random(1).randbytes(2000) * 2
    data = bytearray(gzip.compress(content))
    place %= len(data)
    data[place] ^= change
    theirs, ours = zlib.decompressobj(31), _deflate.Inflater()
    good = []
    for found in (theirs, ours):
        parts = []
        try:
            for byte in data:
                parts.append(found.decompress(bytes([byte])))
        except zlib.error as error:
            parts.append(str(error).split(":")[-1].encode())
        good.append(b"".join(parts))
    assert good[0] == good[1]


@pytest.mark.parametrize("level", [0, 1, 9])
def test_any_point_is_one_to_go_on_from(level: int) -> None:
    words = [b"%d " % n for n in range(3000)]
    chance = random.Random(level)
    content = b"".join(chance.choices(words, k=300_000))
    data = gzip.compress(content, level)
    pass_ = gzip_filter.Pass(10**6)
    pass_.spacing = 1
    member = pass_.new()
    while not member.eof:
        member.decompress(data if not member._inflater.taken else b"", 70_000)
    assert len({point.bits for point in pass_.points}) == (8 if level else 1)
    source = _source.Source(Below(data), "disk")
    for point in pass_.points:
        reader = gzip_filter.Content(source, len(data), point)
        found = reader.read(500)
        assert found
        assert found == content[point.offset : point.offset + len(found)], point[:3]


def test_without_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    _deflate.library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(ConfigError, match=r"gzip needs zlib: libz.so.1: cannot.*zlib1g"):
        gzip_filter.Gzip().get_ready()
