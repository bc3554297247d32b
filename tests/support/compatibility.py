"""The table of everything that nbdkit 1.48 has, against what is here.

What nbdkit has is in `nbdkit_1_48.json`, which was read off the manual pages, the header and the
--help of nbdkit 1.48.1.  What is here, the code says.  Run as a program, this writes
`doc/compatibility.md` anew.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbdfork.backend import absent, load
from nbdfork.backend.load import FILTER, PLUGIN, Kind
from nbdfork.options import TABLE
from nbdfork.plugin import parameters_of
from tests.support.paths import ROOT

DOCUMENT = ROOT / "doc" / "compatibility.md"
FACTS = Path(__file__).with_name("nbdkit_1_48.json")

BEGINNING = """\
# What nbdkit {version} has, and nbdfork

This page is generated from the code and from a list of what nbdkit {version} has
(`python -m tests.support.compatibility`), and a test compares it with both. "yes" means that the
name is known and does what its manual page says; all else says what to do instead.
"""

NOT_NEEDED = {("tar", "tar"): "yes: archives are read without a program"}
"""Keys, by the filter, that are not here because nothing is to be said by them."""


def facts() -> Any:
    """Return what nbdkit has."""
    return json.loads(FACTS.read_text())


def table() -> str:
    """Return the document."""
    known = facts()
    parts = [BEGINNING.format(version=known["version"])]
    parts += ["## Options", "", *_rows(_options(known["options"])), ""]
    for kind, word in ((PLUGIN, "plugins"), (FILTER, "filters")):
        parts += [f"## {word.capitalize()}", "", *_rows(_layers(kind, known[word]), keys=True), ""]
    header = (ROOT / "plugins/c/include/nbdfork/nbdfork-plugin.h").read_text()
    callbacks = set(re.findall(r"\(\*(?:NBDFORK_V\d \()?(\w+)\)", header))
    parts += ["## Callbacks of a plugin in C", "", *_rows(_names(known["callbacks"], callbacks))]
    functions = set(re.findall(r"\bnbdkit_\w+", header))
    parts += ["", "## Functions for a plugin in C", ""]
    parts += [*_rows(_names(known["functions"], functions)), ""]
    return "\n".join(parts)


def _options(names: list[str]) -> Iterator[tuple[str, ...]]:
    ours = {name for option in TABLE for name in option.names}
    for name in names:
        yield f"`{name}`", "yes" if name in ours else ""


def _layers(kind: Kind, named: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    shipped = {name.replace("_", "-") for name in load.available(kind)}
    for name, keys in sorted(named.items(), key=lambda pair: pair[0].lower()):
        if name.lower() not in shipped:
            yield f"`{name}`", _instead(kind, name), " ".join(f"`{key}`" for key in keys)
            continue
        plugin_class = load.find(name, kind).plugin_class
        ours = parameters_of(plugin_class)
        needless = [key for key in keys if key not in ours and (name, key) in NOT_NEEDED]
        keys = [key for key in keys if key not in needless]
        missing = [key for key in keys if key not in ours]
        shown = " ".join(f"`{key}`" + ("" if key in ours else " (no)") for key in keys)
        answer = NOT_NEEDED[name, needless[0]] if needless else "yes"
        yield f"`{name}`", answer if not missing else "", shown


def _instead(kind: Kind, name: str) -> str:
    found = absent.PLUGINS if kind is PLUGIN else absent.FILTERS
    return found.get(name, "")


def _names(names: list[str], ours: set[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        yield f"`{name}`", "yes" if name in ours else ""


def _rows(rows: Iterator[tuple[str, ...]], keys: bool = False) -> Iterator[str]:
    yield "| nbdkit | nbdfork |" + (" keys |" if keys else "")
    yield "| --- | --- |" + (" --- |" if keys else "")
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(table())
