"""The arguments of the command line: whose they are, and what becomes of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.backend.arguments import Assignment, help_rows, split, unknown
from nbdfork.plugin import ConfigError, Parameter, Plugin, Secret, parameters_of, parse


class Ram(Plugin):
    """a disk of every kind of parameter"""

    size = Parameter(parse.size, required=True, magic=True, metavar="SIZE", help="its size")
    files = Parameter(str, repeatable=True, metavar="FILE", help="any number")
    max_age = Parameter(parse.whole(0, 9), default=3, metavar="N", help="its age")
    comment = Parameter(str, metavar="TEXT", help="a remark")
    password = Secret(parse.whole(0, 9), metavar="PASSWORD", help="a number")


def assigned(*pairs: tuple[str, str]) -> Ram:
    ram = Ram()
    assignment = Assignment(ram, "ram")
    for key, text in pairs:
        assignment.set(key, text)
    assignment.finish()
    return ram


def refusal(*pairs: tuple[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        assigned(*pairs)
    return str(caught.value)


def test_values_are_set_by_their_keys() -> None:
    ram = assigned(("size", "1k"), ("files", "a"), ("max-age", "7"), ("files", "b"))
    assert (ram.size, ram.files, ram.max_age, ram.comment) == (1024, ("a", "b"), 7, None)


def test_what_is_wrong_is_named() -> None:
    assert refusal(("size", "x")).startswith("ram: size=x: not a size")
    assert refusal(("size", "1"), ("size", "2")) == "ram: size= is given twice"
    assert refusal() == "ram: the parameter size=SIZE is required (its size)"


def test_a_wrong_secret_is_not_shown() -> None:
    said = refusal(("size", "1"), ("password", "hush"))
    assert said == "ram: password=***: expected a whole number from 0 to 9"


def test_zero_is_a_value_like_any_other() -> None:
    assert assigned(("size", "0")).size == 0


def test_the_help_has_a_row_for_each() -> None:
    assert help_rows(parameters_of(Ram)) == [
        ("[size=]SIZE", "its size (required)"),
        ("files=FILE", "any number (may be repeated)"),
        ("max-age=N", "its age (default: 3)"),
        ("comment=TEXT", "a remark"),
        ("password=PASSWORD", "a number"),
    ]
    assert help_rows(parameters_of(Plugin)) == []


@given(st.integers(0, parse.MAX_SIZE) | st.integers(0, 60).map(lambda power: 1 << power))
def test_a_default_is_shown_as_a_user_would_type_it(number: int) -> None:
    class Defaults(Plugin):
        size = Parameter(parse.size, default=number, metavar="SIZE", help="a size")
        count = Parameter(parse.whole(0, 1 << 63), default=number, metavar="N", help="a number")
        on = Parameter(parse.boolean, default=bool(number), metavar="BOOL", help="a switch")
        part = Parameter(float, default=number / 8, metavar="X", help="a part")

    texts = [text for _, text in help_rows(parameters_of(Defaults))]
    size, count, on, part = (re.sub(r".*default: (.*)\)", r"\1", text) for text in texts)
    assert parse.size(size) == number
    assert len(size) <= len(str(number))
    assert (count, on) == (str(number), "true" if number else "false")
    assert float(part) == number / 8


def test_the_largest_unit_is_shown() -> None:
    class Sized(Plugin):
        size = Parameter(parse.size, default=512 << 20, metavar="SIZE", help="its size")

    assert help_rows(parameters_of(Sized)) == [("size=SIZE", "its size (default: 512M)")]


def test_an_argument_that_nobody_takes_is_answered_with_what_there_is() -> None:
    assert "did you mean size=? Its parameters are: size= files=" in str(
        unknown("ram", "siez", "1", ["size", "files"])
    )
    assert str(unknown("null", "x", "1", [])) == (
        "null: unknown parameter x=. This plugin takes no parameters."
    )
    assert "'x' is not of the form key=value" in str(unknown("null", None, "x", []))


@given(st.text("aZ9_.-", min_size=1).map("k".__add__), st.text())
def test_key_and_value_are_what_is_around_the_first_equals_sign(key: str, value: str) -> None:
    assert split(f"{key}={value}") == (key, value)


@given(st.text())
def test_an_argument_is_either_split_or_left_as_it_is(argument: str) -> None:
    key, value = split(argument)
    assert argument == (value if key is None else f"{key}={value}")


VALUES = {"size": ["0", "1k"], "files": ["", "a=b"], "max-age": ["7"], "comment": ["x"]}


@given(
    st.lists(
        st.sampled_from(sorted(VALUES)).flatmap(
            lambda key: st.tuples(st.just(key), st.sampled_from(VALUES[key]))
        ),
        max_size=8,
    )
)
def test_what_is_given_once_or_may_be_repeated_is_taken(pairs: list[tuple[str, str]]) -> None:
    keys = [key for key, _ in pairs if key != "files"]
    if "size" not in keys or len(set(keys)) < len(keys):
        assert refusal(*pairs).startswith("ram: ")
    else:
        ram = assigned(*pairs)
        assert ram.files == tuple(text for key, text in pairs if key == "files")
        assert ram.size == parse.size(dict(pairs)["size"])
        assert ram.max_age == int(dict(pairs).get("max-age", 3))
