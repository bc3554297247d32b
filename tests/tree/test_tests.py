"""The tests keep to their own house rules: what they share is in support, and who has a test."""

import ast
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
