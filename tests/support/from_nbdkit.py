"""The tables of nbdfork-from-nbdkit(1): what is the same, different, or done by something else.

They are made of what this tree declares and of what nbdkit is known to have.  This writes them into
the page:

    python -m tests.support.from_nbdkit
"""

import re
from collections.abc import Iterator

from nbdfork.backend import absent, load
from nbdfork.backend.arguments import takes_any_key
from nbdfork.backend.known import FILTERS, OPTIONS, PLUGINS
from nbdfork.options import TABLE
from nbdfork.plugin import parameters_of
from tests.support.manual import MANUAL

PAGE = MANUAL / "nbdfork-from-nbdkit.1"

SAME = "same"

INSTEAD = {
    "--timeout": "--handshake-limit and --idle-limit",
    "--tls-priority": "the system's configuration of OpenSSL applies",
    "--vsock": "a service manager passes the socket; see SOCKET ACTIVATION of nbdfork(1)",
}
"""What takes the place of options that nbdkit has, as long as they are not here."""


def tables() -> dict[str, str]:
    """Return each table of the page, as mdoc, by its name."""
    return {
        "plugins": "".join(map(_row, _layers(load.PLUGIN, PLUGINS))),
        "filters": "".join(map(_row, _layers(load.FILTER, FILTERS))),
        "options": "".join(map(_row, _options())),
    }


def written(text: str) -> str:
    """Return the page *text* with the tables as they should be."""
    for name, table in tables().items():
        begin, end = (rf".\" {word} of the table of {name}" + "\n" for word in ("begin", "end"))
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{table}{end}{rest.partition(end)[2]}"
    return text


def _layers(kind: load.Kind, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    available = load.available(kind)
    for name, keys in known.items():
        own = name if name in available else name.lower()
        if own not in available:
            yield name, absent.explanation(kind.word, name).partition("instead: ")[2] or "not here"
            continue
        plugin_class = load.find(own, kind).plugin_class
        missing = [key for key in keys.split() if key not in parameters_of(plugin_class)]
        if not missing or takes_any_key(plugin_class()):
            yield name, SAME if own == name else f"same, and called {own}"
        else:
            yield name, f"different: without {', '.join(missing)}"


def _options() -> Iterator[tuple[str, str]]:
    known = {name for option in TABLE for name in option.names}
    for group in OPTIONS:
        missing = [name for name in group.split() if name not in known]
        names = ", ".join(group.split())
        if not missing:
            yield names, SAME
        elif names == ", ".join(missing):
            yield names, INSTEAD.get(missing[0], "not here")
        else:
            yield names, f"same, but not called {', '.join(missing)}"


def _row(row: tuple[str, str]) -> str:
    left, right = (re.sub("-", r"\\-", cell.rstrip(".")) for cell in row)
    return f'.It "{left}" Ta "{right}"\n'


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
