"""The tests keep to their own house rules: what they share is in support, and who has a test."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT, TESTS

TEST_MODULES = sorted(TESTS.rglob("test_*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield the name of every module that *path* imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_test_module_is_imported() -> None:
    """Two files that need the same thing have it from tests.support, fixtures from conftest."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in TEST_MODULES}
    names |= {name.rpartition(".")[0] + ".conftest" for name in names}
    for path in sorted(TESTS.rglob("*.py")):
        found = names.intersection(imported(path))
        assert not found, f"{path.relative_to(ROOT)} imports {', '.join(sorted(found))}"


SLEEP = re.compile(r"\.sleep *\(|import sleep|\bsleep\W{1,4}(?P<seconds>\d[\d.]*)")

LONG = 60
"""Who sleeps for so many seconds is a program that runs until something ends it."""

MAY_SLEEP = {
    "support/harness.py": "`eventually` looks again and again for what all others wait for",
    "plugins/test_sh.py": "a script must not be called again meanwhile; no event tells of that",
}


def sleeps(path: Path) -> list[str]:
    """Return what in *path* lets time pass, in Python or in a script."""
    found = SLEEP.finditer(path.read_text())
    return [one[0] for one in found if float(one["seconds"] or 0) < LONG]


def test_no_test_sleeps() -> None:
    """They wait for a condition, with `eventually`, a pipe, a fifo, or select(2)."""
    found = {
        str(path.relative_to(TESTS)): sleeps(path)
        for path in sorted(TESTS.rglob("*.*"))
        if path.is_file() and path.suffix not in (".pyc", ".so") and path != Path(__file__)
    }
    found = {name: what for name, what in found.items() if what}
    assert {name: len(what) for name, what in found.items()} == dict.fromkeys(MAY_SLEEP, 1), found
