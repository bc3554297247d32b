"""Options: declared once, and what a declaration says holds for the command line."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.cli import UsageError, parse_arguments
from nbdfork.options import FIELDS, TABLE, Options


def test_no_name_stands_for_two_options() -> None:
    names = [name for option in TABLE for name in option.names]
    assert len(set(names)) == len(names)
    assert all(name[1] == "-" or len(name) == 2 for name in names)


def test_every_rule_names_an_option() -> None:
    names = {name for option in TABLE for name in option.names}
    for option in TABLE:
        assert option.excludes.keys() <= names
        assert option.implies is None or option.implies.split("=")[0] in names


def test_every_help_is_one_line() -> None:
    for option in TABLE:
        assert option.help
        assert "\n" not in option.help
        assert "{" not in option.help


def test_options_are_set_once_and_compare_by_value() -> None:
    options = Options(port="1", verbose=True)
    assert options == Options(verbose=True, port="1")
    assert hash(options) == hash(Options(verbose=True, port="1"))
    assert options != Options(port="1")
    assert repr(options) == "Options(port='1', verbose=True)"
    with pytest.raises(AttributeError, match="port: options are set by the command line alone"):
        options.port = "2"
    with pytest.raises(TypeError, match="no option field prot"):
        Options(prot="1")


def test_the_defaults_are_those_of_nbdkit() -> None:
    options = Options()
    assert (options.port, options.family, options.newstyle) == ("10809", socket.AF_UNSPEC, False)
    assert (options.tls, options.foreground, options.unix) == ("off", False, None)


FLAGS = sorted({option.names[0] for option in TABLE if option.metavar is None})
NUMBERS = ["--max-clients", "--spare-workers", "-t", "--clients-per-worker", "--handshake-limit"]

WORDS = st.one_of(
    st.sampled_from(FLAGS).map(lambda name: [name]),
    st.tuples(st.sampled_from(NUMBERS), st.integers(1, 99).map(str)).map(list),
    st.sampled_from([["-p", "7"], ["-U", "-"], ["--tls=on"], ["--filter", "cow"], ["key=value"]]),
)


@given(st.lists(WORDS, max_size=5), st.data())
def test_the_order_of_different_options_does_not_matter(
    given_: list[list[str]], data: st.DataObject
) -> None:
    """Two that set the same field are different: there the last one counts."""
    chosen = {tuple(sorted(_fields(words))): words for words in given_}
    lines = list(chosen.values())
    shuffled = data.draw(st.permutations(lines))
    assert _outcome(lines) == _outcome(shuffled)


def _fields(words: list[str]) -> set[str]:
    name = words[0].split("=")[0]
    return {field.name for field in FIELDS for option in field.options if name in option.names}


def _outcome(lines: list[list[str]]) -> object:
    try:
        return parse_arguments(["file", *(word for line in lines for word in line)])
    except UsageError:
        return "refused"


@given(st.lists(st.text(alphabet="-=abflnoprstUvx1:/ ", max_size=8), max_size=6))
def test_any_words_are_options_or_one_line_that_says_what_is_wrong(words: list[str]) -> None:
    try:
        options = parse_arguments(words)
    except UsageError as error:
        line = str(error)
    else:
        line = repr(options)
    assert line
    assert "\n" not in line
