"""Parameters: declared once, set by a program, and shown."""

import pytest

from nbdfork.plugin import Parameter, Plugin, Secret, parameters_of, parse, shown


class Ram(Plugin):
    """a disk of every kind of parameter"""

    size = Parameter(parse.size, required=True, magic=True, metavar="SIZE", help="its size")
    files = Parameter(str, repeatable=True, metavar="FILE", help="any number")
    max_age = Parameter(parse.whole(0, 9), default=3, metavar="N", help="its age")
    comment = Parameter(str, metavar="TEXT", help="a remark")
    password = Secret(parse.whole(0, 9), metavar="PASSWORD", help="a number")


class OlderRam(Ram):
    """one with another default"""

    max_age = Parameter(parse.whole(0, 99), default=50, metavar="N", help="its age")


def test_a_subclass_may_declare_a_parameter_again() -> None:
    assert OlderRam().max_age == 50
    assert list(parameters_of(OlderRam)) == list(parameters_of(Ram))


def test_objects_of_one_class_have_values_of_their_own() -> None:
    one, other = Ram(size=1, files=("a",)), Ram(size=2)
    assert (one.size, one.files) == (1, ("a",))
    assert (other.size, other.files) == (2, ())


def test_a_program_may_give_values_or_text() -> None:
    assert Ram(size="2k").size == 2048
    assert Ram(size=7).size == 7
    assert Ram(files="a").files == ("a",)
    assert Ram(max_age=4).max_age == 4
    with pytest.raises(TypeError, match="has no parameter 'last'"):
        Ram(last=1)
    with pytest.raises(ValueError, match="not a size"):
        Ram(size="x")


@pytest.mark.parametrize("key", ["password", "proxy-Password", "api_token", "client_secret"])
def test_a_key_that_tells_of_a_secret_hides_it(key: str) -> None:
    assert shown(key, "hush") == f"{key}=***"
    assert shown("file", "hush") == "file=hush"


def test_a_key_may_be_another_than_the_name_of_the_attribute() -> None:
    class Remote(Plugin):
        hostname = Parameter(str, key="server", metavar="HOST", help="where the disk is")
        shared_key = Parameter(str, key="shared_key", metavar="KEY", help="a key with a _")

    assert list(parameters_of(Remote)) == ["server", "shared_key"]
    remote = Remote(server="there", shared_key="x")
    assert (remote.hostname, remote.shared_key) == ("there", "x")
    assert not remote.server.single
    with pytest.raises(TypeError, match="no parameter 'hostname'"):
        Remote(hostname="there")
