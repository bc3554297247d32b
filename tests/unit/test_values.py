"""What is made of the arguments of options, and what is said of those that are wrong."""

from collections.abc import Callable

import pytest

from nbdfork import values
from nbdfork.server.sandbox.limits import UNLIMITED


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.text, "", ""),
        (values.port, "nbd", "nbd"),
        (values.port, "65535", "65535"),
        (values.permissions, "0660", 0o660),
        (values.mask, "0x3", 3),
        (values.debug_flag, "file.zero=1", ("file", "zero", 1)),
        (values.path_or("-"), "-", "-"),
        (values.path_or("-"), "/a//b", "/a/b"),
        (values.limit, "memory=1M", ("memory", 1 << 20)),
        (values.limit, "files=0", ("files", 0)),
        (values.limit, "core=unlimited", ("core", UNLIMITED)),
        (values.user_range, "5000-5255", (5000, 5255)),
    ],
)
def test_values(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (values.port, "4294967295", "a port is at most 65535"),
        (values.port, "", "a port number or a service name"),
        (values.permissions, "rw", "three octal digits"),
        (values.mask, "65536", "a number up to 0xffff"),
        (values.debug_flag, "zero=1", "expected nbdfork.FLAG=N, PLUGIN.FLAG=N or FILTER.FLAG=N"),
        (values.limit, "colour=1", "a limit is one of: core, cpu, files, memory, processes"),
        (values.limit, "files=1M", "number"),
        (values.limit, "memory", "size"),
        (values.user_range, "0-5", "users other than root"),
        (values.user_range, "9-5", "such as 5000-5255"),
        (values.user_range, "nobody", "two numbers"),
    ],
)
def test_what_is_no_value(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
