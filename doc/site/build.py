"""Build the site: the manual, the guides among it, and the contract as its docstrings have it.

    python doc/site/build.py DIRECTORY

Each page of man/ becomes one of the site, by mandoc, in which the names of other pages are links.
Sphinx adds the navigation, the contract and the search.  Nothing is fetched from anywhere, neither
now nor by whoever reads it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MANUAL = HERE.parent.parent / "man"

GUIDES = (
    "nbdfork-start.1",
    "nbdfork-writing.1",
    "nbdfork-testing.1",
    "nbdfork-service.1",
    "nbdfork-several.1",
    "nbdfork-tls.1",
    "nbdfork-from-nbdkit.1",
    "nbdfork-troubleshooting.1",
)

PARTS = {
    "Plugins": r"nbdfork-.*-plugin\.[13]",
    "Filters": r"nbdfork-.*-filter\.1",
    "Programming": r".*\.3",
}
"""The other pages that have a part of their own; the first pattern that fits a page has it."""

CONTRACT = ("nbdfork", "nbdfork.plugin", "nbdfork.scripting")
"""The public modules, which have an `__all__`."""

_NAME = r"<section class=\"Sh\">\s*<h1[^>]*>(<a[^>]*>)?NAME.*?</section>"
"""The section that says what the title and the first line say."""


def main() -> int:
    """Build, and return the exit status of Sphinx, for which a warning is an error."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="nbdfork-site") as name:
        source = Path(name)
        shutil.copy(HERE / "conf.py", source)
        shutil.copytree(HERE / "static", source / "static")
        write_sources(source)
        command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going"]
        return subprocess.run([*command, str(source), str(target)], check=False).returncode


def write_sources(source: Path) -> None:
    """Write all that Sphinx reads to *source*."""
    left = sorted(path.name for path in MANUAL.iterdir() if path.name not in GUIDES)
    parts: dict[str, list[str]] = {"Guides": list(GUIDES), "The server": []}
    for title, pattern in PARTS.items():
        parts[title] = [page for page in left if re.fullmatch(pattern, page)]
        left = [page for page in left if page not in parts[title]]
    parts["The server"] = left
    for page in (page for pages in parts.values() for page in pages):
        (source / f"{page}.rst").write_text(manual_page(page))
    for module in CONTRACT:
        (source / f"{module}-contract.rst").write_text(contract(module))
    parts["The contract"] = [f"{module}-contract" for module in CONTRACT]
    (source / "index.rst").write_text(index(parts))


def index(parts: dict[str, list[str]]) -> str:
    """Return the first page."""
    lines = [
        heading("nbdfork"),
        "A server for the network block device protocol, and a toolkit for disks of your own."
        "  These are its guides and its manual; the search finds words in all of them.",
        "",
    ]
    for title, pages in parts.items():
        lines += [".. toctree::", "   :hidden:", f"   :caption: {title}", ""]
        lines += [f"   {describe(page)} <{page}>" for page in pages] + [""]
        lines += [title, "-" * len(title), ""]
        lines += [f"- :doc:`{describe(page)} <{page}>`{_told(page)}" for page in pages] + [""]
    return "\n".join(lines)


def _told(page: str) -> str:
    """Return what the first page says of another whose name does not tell it."""
    if page in GUIDES or page.endswith("-contract"):
        return ""
    return f": {description(page)}"


def describe(page: str) -> str:
    """Return what the navigation calls a page."""
    if page.endswith("-contract"):
        return page.removesuffix("-contract")
    if page in GUIDES:
        return description(page)
    name, _, section = page.rpartition(".")
    return f"{name}({section})"


def description(page: str) -> str:
    """Return what the NAME of a page says of it."""
    found = re.search(r"^\.Nd (.*)$", (MANUAL / page).read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{page} has no .Nd")
    text = found[1].replace("\\-", "-")
    return text[0].upper() + text[1:]


def manual_page(page: str) -> str:
    """Return a page of the manual as reStructuredText around HTML."""
    name, _, section = page.rpartition(".")
    done = subprocess.run(
        ["mandoc", "-Thtml", "-Ofragment,man=%N.%S.html", str(MANUAL / page)],
        capture_output=True,
        text=True,
        check=True,
    )
    body = done.stdout
    body = re.sub(r"<table class=\"(head|foot)\">.*?</table>", "", body, flags=re.DOTALL)
    body = re.sub(_NAME, "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<(/?)h2", r"<\1h3", body)
    body = re.sub(r"<(/?)h1", r"<\1h2", body)
    body = re.sub(r"<a class=\"Xr\"[^>]* href=\"([^\"]+)\"[^>]*>(.*?)</a>", _link, body)
    title = heading(f"{name}({section})")
    indented = "".join(f"   {line}\n" for line in body.splitlines())
    return f"{title}\n{description(page)}.\n\n.. raw:: html\n\n{indented}"


def _link(found: re.Match[str]) -> str:
    """Keep a link to a page that is here; others are for the reader's own manual."""
    if (MANUAL / found[1].removesuffix(".html")).exists():
        return f'<a class="Xr" href="{found[1]}">{found[2]}</a>'
    return found[2]


def contract(module: str) -> str:
    """Return the page that has what the docstrings of *module* say."""
    lines = [heading(module), f".. automodule:: {module}", "   :members:", "   :imported-members:"]
    return "\n".join([*lines, "   :undoc-members:", "   :show-inheritance:", ""])


def heading(text: str) -> str:
    """Return *text* as the title of a page."""
    return f"{text}\n{'=' * len(text)}\n"


if __name__ == "__main__":
    sys.exit(main())
