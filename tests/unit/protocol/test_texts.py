"""Texts on their way to a client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.protocol import wire
from nbdfork.protocol.texts import encoded, readable

SURROGATES = st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), min_size=1)


@pytest.mark.parametrize("text", ["/disk-\udcff", "\ud800", "a\0b", "x" * 4097, "\u20ac" * 1366])
def test_what_is_no_string_of_the_protocol(text: str) -> None:
    assert encoded(text) is None


@pytest.mark.parametrize("text", ["", "disk \u20ac", "x" * 4096, "\u20ac" * 1365])
def test_what_is_one(text: str) -> None:
    assert encoded(text) == text.encode()


def test_what_people_read_is_escaped_or_cut() -> None:
    assert readable("cannot open /disk-\udcff", 100) == rb"cannot open /disk-\udcff"
    assert readable("a\0b", 100) == rb"a\0b"
    assert readable("\u20ac" * 10, 10) == ("\u20ac" * 3).encode()


@given(st.text() | SURROGATES, st.integers(0, 40))
def test_whatever_it_is_it_can_be_read(text: str, most: int) -> None:
    told = readable(text, most)
    assert len(told) <= most
    assert b"\0" not in told
    told.decode()


@given(st.text() | SURROGATES)
def test_a_string_is_sent_as_it_is_or_not_at_all(text: str) -> None:
    assert encoded(text) in (None, text.encode(errors="replace"))
    assert encoded("x" * wire.MAX_STRING) is not None
