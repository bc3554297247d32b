"""Parameters from files."""

from pathlib import Path

import pytest

from nbdfork.argumentfiles import BadArgumentFile, expanded
from nbdfork.cli import UsageError, parse_arguments


def test_lines_stand_where_the_file_was_named(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "first").write_text("# comment\n\nfile=a b\n@more/second\n  x=#y\n")
    (tmp_path / "more" / "second").write_text("file=caf\u00e9\n@./third")
    (tmp_path / "more" / "third").write_text("@user\n")
    words = ["size=1", f"@{tmp_path}/first", "last"]
    expected = ["size=1", "file=a b", "file=caf\u00e9", "@user", "  x=#y", "last"]
    assert list(expanded(words)) == expected
    assert parse_arguments(["null", *words]).arguments == tuple(expected)


def test_a_path_has_a_slash_and_comes_after_the_plugin() -> None:
    assert list(expanded(["@user", "a=@/x"])) == ["@user", "a=@/x"]
    assert parse_arguments(["@./null"]).plugin == "@./null"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"@{tmp_path}/none: cannot read it: No such file"):
        parse_arguments(["null", f"@{tmp_path}/none"])


def test_a_file_that_names_itself_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "loop").write_text("@./loop\n")
    with pytest.raises(BadArgumentFile, match="nested too deep"):
        list(expanded([f"@{tmp_path}/loop"]))
