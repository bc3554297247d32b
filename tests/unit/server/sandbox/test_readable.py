"""What every worker may read."""

import os

import nbdfork
from nbdfork.server.sandbox import readable


def is_readable(path: str, *, network: bool = False) -> bool:
    path = os.path.realpath(path)
    return any(os.path.commonpath([path, one]) == one for one in readable.paths(network=network))


def test_modules_and_libraries_are_among_it() -> None:
    assert is_readable(os.__file__)
    assert is_readable(nbdfork.__file__)
    assert is_readable("/usr/lib/anything")


def test_what_is_somebodys_is_not() -> None:
    for path in ("/", "/etc/passwd", "/etc/shadow", "/home", "/tmp", "/proc", "/var"):
        assert not is_readable(path)


def test_the_network_takes_more_but_no_secrets() -> None:
    for path in ("/etc/resolv.conf", "/etc/hosts"):
        assert is_readable(path, network=True) == os.path.exists(path) or os.path.islink(path)
    for path in ("/etc/shadow", "/etc/ssl/private", "/root"):
        assert not is_readable(path, network=True)


def test_no_path_is_below_another() -> None:
    found = readable.paths(network=True)
    assert not [one for one in found for other in found if one.startswith(f"{other}/")]
