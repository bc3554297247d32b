"""The table of what nbdkit has: it is up to date, and says nothing without a reason."""

import re

from tests.support.compatibility import DOCUMENT, facts, table


def test_the_table_is_what_the_code_says() -> None:
    """Otherwise: python -m tests.support.compatibility"""
    assert DOCUMENT.read_text() == table()


def test_there_is_no_unexplained_no() -> None:
    rows = [line.split(" | ") for line in table().splitlines() if line.startswith("| `")]
    assert [row for row in rows if not row[1].strip("| ")] == []
    assert not [row for row in rows if "(no)" in " ".join(row)]


def test_the_list_of_what_nbdkit_has_is_whole() -> None:
    known = facts()
    assert re.fullmatch(r"1\.48\.\d+", known["version"])
    assert (len(known["options"]), len(known["plugins"])) == (76, 45)
    assert (len(known["filters"]), len(known["callbacks"])) == (53, 34)
    assert len(known["functions"]) == 46
