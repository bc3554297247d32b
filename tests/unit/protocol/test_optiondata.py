"""The data of options: what is well formed is understood, and everything else refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.protocol.optiondata import (
    Invalid,
    expect_empty,
    parse_info_request,
    parse_queries,
    string,
)

STRINGS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


def counted(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data


@given(STRINGS, st.lists(st.integers(0, 2**16 - 1), max_size=5))
def test_an_info_request_is_understood(name: str, infos: list[int]) -> None:
    data = counted(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)
    assert parse_info_request(data) == (name, set(infos))


@given(STRINGS, st.lists(STRINGS, max_size=5))
def test_queries_are_understood(name: str, queries: list[str]) -> None:
    data = counted(name) + struct.pack(">I", len(queries)) + b"".join(map(counted, queries))
    assert parse_queries(data) == (name, queries)


@given(STRINGS, st.lists(STRINGS, max_size=3), st.integers(1, 200))
def test_queries_that_are_cut_off_or_go_on_are_refused(
    name: str, queries: list[str], change: int
) -> None:
    data = counted(name) + struct.pack(">I", len(queries)) + b"".join(map(counted, queries))
    for wrong in (data[: -min(change, len(data))], data + bytes(change)):
        with pytest.raises(Invalid):
            parse_queries(wrong)


@given(st.binary(max_size=60))
def test_anything_is_understood_or_refused(data: bytes) -> None:
    for parse in (parse_info_request, parse_queries):
        try:
            name, _ = parse(data)
        except Invalid:
            continue
        assert counted(name) == data[: 4 + len(name.encode())]


@given(STRINGS)
def test_a_string_is_what_was_encoded(text: str) -> None:
    assert string(text.encode()) == text


@pytest.mark.parametrize("data", [b"\xff", b"a\0b", b"\xed\xb3\xbf", b"\xc3"])
def test_a_string_is_utf_8_without_nul(data: bytes) -> None:
    with pytest.raises(Invalid, match=r"a string (that is not UTF-8|with a NUL)"):
        string(data)


def test_a_string_has_a_greatest_length() -> None:
    assert string(b"x" * 4096) == "x" * 4096
    with pytest.raises(Invalid, match="a string of 4097 bytes"):
        string(b"x" * 4097)


def test_data_where_none_belong() -> None:
    expect_empty(b"")
    with pytest.raises(Invalid, match="3 bytes of data"):
        expect_empty(b"abc")
