"""What nbdkit has: names and keys as a command line has them, each once."""

import re

from nbdfork.backend.known import FILTERS, OPTIONS, PLUGINS


def test_each_is_a_name_with_keys() -> None:
    for table in (PLUGINS, FILTERS):
        for name, keys in table.items():
            assert re.fullmatch(r"[A-Za-z0-9-]+", name)
            assert len(set(keys.split())) == len(keys.split()), name
            assert all(re.fullmatch(r"[A-Za-z][\w.-]*", key) for key in keys.split()), name


def test_each_option_is_there_once() -> None:
    names = [name for group in OPTIONS for name in group.split()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"-\w|--[\w-]+", name) for name in names)
