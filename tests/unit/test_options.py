"""Options: declared once, and what a declaration says holds for the command line."""

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.cli import UsageError, parse_arguments
from nbdfork.declaration import Option
from nbdfork.options import FIELDS, ONLY_ON_COMMAND_LINE, TABLE, Options
from tests.support.paths import SAMPLES


def test_no_name_stands_for_two_options() -> None:
    names = [name for option in TABLE for name in option.names]
    assert len(set(names)) == len(names)
    assert all(name[1] == "-" or len(name) == 2 for name in names)


def test_what_is_for_the_command_line_alone_are_fields() -> None:
    assert {field.name for field in FIELDS} >= ONLY_ON_COMMAND_LINE


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
        options.port = "2"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="no option field prot"):
        Options(prot="1")


def test_the_defaults_are_those_of_nbdkit() -> None:
    options = Options()
    assert (options.port, options.family, options.newstyle) == ("10809", socket.AF_UNSPEC, None)
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


# -- declarations taken at their word --------------------------------------------------------

BY_NAME = {name: option for option in TABLE for name in option.names}
ARGUMENTS = {
    "allow": "any",
    "config": str(SAMPLES / "ram.toml"),
    "debug": "nbdfork.backend.datapath=0",
    "deny": "any",
    "log": "null",
    "limits": "files=7",
    "sandbox": "require",
    "tls": "require",
    "unix": "/run/s",
    "unix_mode": "660",
    "worker_uids": "5000-5009",
}


def words(option: Option[Any]) -> list[str]:
    """Return *option* as it is given, with a value that is not the default."""
    name = option.names[-1]
    if option.metavar is None:
        return [name]
    return [name, ARGUMENTS.get(option.field.name, "7")]


def pairs() -> list[tuple[str, str]]:
    return [(option.names[0], other) for option in TABLE for other in option.excludes]


@pytest.mark.parametrize(("one", "other"), pairs())
def test_what_is_excluded_is_refused_in_either_order(one: str, other: str) -> None:
    first, second = words(BY_NAME[one]), words(BY_NAME[other])
    reason = BY_NAME[one].excludes[other]
    for line in ([*first, *second], [*second, "null", *first]):
        with pytest.raises(UsageError) as caught:
            parse_arguments(line)
        assert str(caught.value).endswith(f"cannot go together: {reason}")


@pytest.mark.parametrize(
    "option", [one for one in TABLE if one.implies], ids=lambda one: one.names[0]
)
def test_what_is_implied_is_as_good_as_given(option: Option[Any]) -> None:
    assert option.implies is not None
    implied = BY_NAME[option.implies.partition("=")[0]].field
    options = parse_arguments(words(option))
    assert getattr(options, implied.name) == getattr(
        parse_arguments([option.implies]), implied.name
    )
    assert option.help.endswith(f"(implies {option.implies})")


@pytest.mark.parametrize("option", TABLE, ids=lambda one: one.names[0])
def test_what_a_service_manager_takes_the_place_of(option: Option[Any]) -> None:
    if not option.not_activated:
        parse_arguments(words(option), activated=True)
        return
    with pytest.raises(UsageError, match="passes the sockets"):
        parse_arguments(words(option), activated=True)


@pytest.mark.parametrize("option", TABLE, ids=lambda one: one.names[0])
def test_the_last_one_counts_or_all_are_gathered(option: Option[Any]) -> None:
    once, twice = parse_arguments(words(option)), parse_arguments(words(option) * 2)
    value = getattr(once, option.field.name)
    expected = value * 2 if option.field.gathers else value
    assert getattr(twice, option.field.name) == expected


def test_the_help_tells_defaults() -> None:
    assert BY_NAME["--port"].help == "listen on this TCP port (10809; 0: any free one)"
    assert BY_NAME["--shutdown-limit"].help.endswith("(10)")
    assert not any("{" in option.help for option in TABLE)
