"""Parsers of values: what each takes, and that it refuses the rest with words for the user."""

import os
import re
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nbdfork.plugin import parse

UNITS = {"": 1, "b": 1, "s": 512} | {
    letter: 1 << 10 * power for power, letter in enumerate("kmgtpe", 1)
}


@given(st.integers(0, 7) | st.integers(1, 2**64), st.sampled_from(sorted(UNITS)), st.booleans())
def test_a_size_is_a_number_times_its_unit(number: int, unit: str, upper: bool) -> None:
    text = f"{number}{unit.upper() if upper else unit}"
    value = number * UNITS[unit]
    if value < 2**63:
        assert parse.size(text) == value
    else:
        with pytest.raises(ValueError, match="the limit is 2\\^63-1 bytes"):
            parse.size(text)


@given(st.text(alphabet="0123456789kKbGE+-._ \u0663\u00b2"))
def test_a_size_is_digits_with_a_letter_or_refused(text: str) -> None:
    digits = text.strip().rstrip("kKbGE")
    digits = digits.removeprefix("+")
    if re.fullmatch(r"\+?(0[0-7]*|[1-9][0-9]*)[kKbGE]?", text.strip(), re.ASCII):
        assume(int(digits, 8 if digits.startswith("0") else 10) < 8)
        assert parse.size(text) < 2**63
    else:
        with pytest.raises(ValueError, match="not a size"):
            parse.size(text)


@pytest.mark.parametrize("word", ["1", "true", "T", "YES", "y", "On"])
def test_what_is_true(word: str) -> None:
    assert parse.boolean(word) is True


@pytest.mark.parametrize("word", ["0", "false", "F", "NO", "n", "Off"])
def test_what_is_false(word: str) -> None:
    assert parse.boolean(word) is False


@pytest.mark.parametrize("word", ["", "2", "maybe", "yes "])
def test_what_is_neither(word: str) -> None:
    with pytest.raises(ValueError, match="expected true or false"):
        parse.boolean(word)


def test_a_path_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    assert parse.path("lib/../bin") == "/usr/bin"
    assert parse.path("/x") == "/x"
    assert os.path.isabs(parse.path("."))
    with pytest.raises(ValueError, match="a file name is expected"):
        parse.path("")


def test_a_choice_is_one_of_its_words() -> None:
    colour = parse.choice("red", "green")
    assert colour("red") == "red"
    for text in ("", "Red", "red green"):
        with pytest.raises(ValueError, match="expected one of: red, green"):
            colour(text)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 200))
def test_a_whole_number_is_within_its_bounds(least: int, room: int, number: int) -> None:
    parser = parse.whole(least, least + room)
    if least <= number <= least + room:
        assert parser(str(number)) == number
    else:
        with pytest.raises(ValueError, match=f"from {least} to {least + room}$"):
            parser(str(number))


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1k", "1_0", " 1", "\u0663", "0x1"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        parse.whole(0, 100)(text)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("10MB", "write 10M, that is 10 times 2^20 bytes"),
        ("1gib", "write 1G, that is 1 times 2^30 bytes"),
        ("1_000", "in decimal digits"),
        ("10XB", "in decimal digits"),
    ],
)
def test_a_size_that_is_none_is_answered_with_the_way_to_write_it(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=r"^not a size: ") as caught:
        parse.size(text)
    assert fix in str(caught.value)


# What nbdkit 1.48.1 makes of sizes, delays and probabilities, as parameters of its memory plugin
# and of its delay and error filters.
SIZES = {"0x10": 16, "0X1f": 31, "0x1k": 1024, "010": 8, "010k": 8192, "+5": 5, " 5": 5, "1b": 1}
NO_SIZES = ["08", "1e3", "1.5G", "1KiB", "1 k", "-1", "0x", "0xg", "8E", ""]
DELAYS = {"1": 1, "1.2": 1.2, "1.2s": 1.2, "100ms": 0.1, "120us": 120e-6, "5ns": 5e-9, ".5": 0.5}
DELAYS |= {"1e-3": 0.001, "5\u03bcs": 5e-6, "+0.001": 0.001}
NO_DELAYS = ["1m", "1min", "1 s", "", "-1", "inf", "1S", "1sec", "x", "1,5", "99999999999"]
PROBABILITIES = {"0.1": 0.1, "1e-1": 0.1, "10%": 0.1, "1:10": 0.1, "1/10": 0.1, "200%": 2, "0%": 0}
PROBABILITIES |= {".5%": 0.005, "0": 0, "0:0": 0}
NO_PROBABILITIES = ["-1", "inf", "nan", "1:0", "1:-2", "1 %", "10%x", "1:", ":1", ""]


@pytest.mark.parametrize(
    ("parser", "values"),
    [(parse.size, SIZES), (parse.delay, DELAYS), (parse.probability, PROBABILITIES)],
)
def test_what_nbdkit_takes(parser: Callable[[str], float], values: Mapping[str, float]) -> None:
    for text, value in values.items():
        assert parser(text) == pytest.approx(value), text


@pytest.mark.parametrize(
    ("parser", "values", "message"),
    [
        (parse.size, NO_SIZES, "not a size|too large"),
        (parse.delay, NO_DELAYS, "expected a number of seconds|too long"),
        (parse.probability, NO_PROBABILITIES, "expected a probability"),
    ],
)
def test_what_nbdkit_refuses(
    parser: Callable[[str], float], values: Sequence[str], message: str
) -> None:
    for text in values:
        with pytest.raises(ValueError, match=message):
            parser(text)
