"""The manual pages, as their source and as a reader sees them."""

import re
from collections.abc import Iterator
from functools import cache

from tests.support.harness import output
from tests.support.paths import ROOT

MANUAL = ROOT / "man"

ESCAPES = {
    r"\-": "-",
    r"\e": "\\",
    r"\&": "",
    r"\(aq": "'",
    r"\(dq": '"',
    r"\(ha": "^",
    r"\(ti": "~",
}
"""The escapes that files on a page may use."""


def source(page: str) -> str:
    """Return the source of a page."""
    return (MANUAL / page).read_text()


def render(text: str) -> str:
    """Return the source of a page as a reader sees it, but with lines that are never broken."""
    shown = output("mandoc", "-Tutf8", "-Owidth=1000", input=text)
    return re.sub(".\b", "", shown)


@cache
def rendered(page: str) -> str:
    """Return a page as a reader sees it."""
    return render(source(page))


def unescaped(text: str) -> str:
    """Return what mdoc *text*, part of a literal display, stands for."""
    return re.sub(r"\\(?:\(..|.)", lambda match: ESCAPES[match[0]], text)


def runs(text: str) -> Iterator[tuple[str, str]]:
    """Yield (prompt, script) for each run of lines of *text* that has a prompt in front."""
    for block in text.replace("\\\n", "").split("\n\n"):
        lines = re.findall(r"^ +([$#]) (.*)", block, re.MULTILINE)
        if lines:
            yield lines[0][0], "\n".join(line for _, line in lines)
