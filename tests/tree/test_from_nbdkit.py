"""The page for those who come from nbdkit: its tables say what is so in this tree."""

from nbdfork.backend import absent
from nbdfork.backend.known import FILTERS, OPTIONS, PLUGINS
from tests.support.from_nbdkit import INSTEAD, PAGE, tables, written


def test_the_tables_are_those_of_this_tree() -> None:
    text = PAGE.read_text()
    assert text == written(text), "python -m tests.support.from_nbdkit writes them"


def test_whatever_nbdkit_has_is_in_a_table() -> None:
    for name, known in (("plugins", PLUGINS), ("filters", FILTERS), ("options", OPTIONS)):
        assert tables()[name].count(".It ") == len(known)


def test_what_is_absent_is_a_thing_of_nbdkit() -> None:
    assert absent.PLUGINS.keys() <= PLUGINS.keys()
    assert absent.FILTERS.keys() <= FILTERS.keys()
    assert INSTEAD.keys() <= {name for group in OPTIONS for name in group.split()}
