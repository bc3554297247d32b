"""How options are declared: names, help, and the field that they set."""

import pytest

from nbdfork.declaration import Field, Flag, Gathered, Option


class Some:
    """Options of this test."""

    size = Field(1.5, Option("-s, --size N", "how large ({default})", float, implies="-x"))
    colour = Field(
        "red",
        Flag("--green", "be green", "green"),
        Flag("--blue", "be blue", "blue", excludes={"--green -s": "colours do not mix"}),
    )
    names = Gathered(Option("--name NAME", "one of them", str))

    def __init__(self, **values: object) -> None:
        vars(self).update(values)


def test_names_and_the_argument_are_in_the_usage() -> None:
    (size,) = Some.size.options
    assert size.names == ("-s", "--size")
    assert size.metavar == "N"
    assert Some.colour.options[0].metavar is None


def test_the_help_tells_the_default_and_what_is_implied() -> None:
    (size,) = Some.size.options
    assert size.help == "how large (1.5) (implies -x)"
    assert size.tells_default
    assert not Some.colour.options[0].tells_default


def test_rules_are_of_each_name() -> None:
    green, blue = Some.colour.options
    assert blue.excludes == {"--green": "colours do not mix", "-s": "colours do not mix"}
    assert green.excludes == {}


def test_a_flag_sets_its_value() -> None:
    assert [option.parse("") for option in Some.colour.options] == ["green", "blue"]
    assert all(option.field is Some.colour for option in Some.colour.options)


def test_a_field_is_read_as_a_value() -> None:
    some = Some(size=2.0, colour="blue", names=("a",))
    assert (some.size, some.colour, some.names) == (2.0, "blue", ("a",))
    assert Some.names.gathers
    assert Some.names.default == ()
    assert not Some.size.gathers
    with pytest.raises(KeyError):
        Some().size  # noqa: B018
