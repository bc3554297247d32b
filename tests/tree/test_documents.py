"""The documents at the top and in doc/: their form, and that what they point to is there."""

import re
from pathlib import Path

import pytest

import nbdfork
from tests.support.paths import ROOT

DECISIONS = ROOT / "doc" / "decisions"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("contrib/*.md"), *DECISIONS.glob("*.md")]

PATH = r"`((?:contrib|doc|man|nbdfork|plugins|tests)/[\w./-]*[\w/])`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_points_to_is_there(path: Path) -> None:
    text = path.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    for link in links:
        assert link.startswith("https://") or (path.parent / link).exists(), link
    if path.name == "CHANGELOG.md" or path.parent == DECISIONS:
        return  # they tell of what was, or might have been, too
    for name in re.findall(PATH, text):
        assert name.isupper() or "NAME" in name or (ROOT / name).exists(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_fit_a_terminal(path: Path) -> None:
    """But for rows of tables, which cannot be broken."""
    for line in path.read_text().splitlines():
        assert len(line) <= 100 or line.startswith("| "), line


def test_the_changelog_has_the_version_that_is_released() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(nbdfork.__version__)} - \d{{4}}-\d\d-\d\d", headings[1])


def test_changes_are_of_a_known_kind() -> None:
    kinds = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_decisions_are_numbered_listed_and_of_one_form() -> None:
    records = sorted(path.name for path in DECISIONS.glob("0*.md"))
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    listed = re.findall(r"\((0\d\d\d-[\w-]+\.md)\)", (DECISIONS / "README.md").read_text())
    assert listed == records
    for name in records:
        text = (DECISIONS / name).read_text()
        assert text.startswith(f"# {int(name[:4])}. ")
        parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert parts[:3] == ["Context", "Decision", "What it costs"], name
        assert parts[3:] == ["Refused"] or (name == "0009-what-is-refused.md" and not parts[3:])
