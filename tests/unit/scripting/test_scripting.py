"""What is public of the module for language plugins: one list, the same everywhere."""

import re

from nbdfork import scripting
from tests.support.manual import source

PUBLIC = {
    "CallbackExport",
    "CallbackFailed",
    "EmbeddedInterpreter",
    "EmbeddedPlugin",
    "HelperPlugin",
    "frames",
}
"""A name that leaves this list breaks somebody's plugin: see "Versions" in CONTRIBUTING.md."""


def test_no_name_comes_or_goes_by_accident() -> None:
    assert set(scripting.__all__) == PUBLIC


def test_the_page_tells_of_every_public_name() -> None:
    page = source("nbdfork-host-plugin.3")
    _, _, section = page.partition(".Sh PLUGINS FOR LANGUAGES")
    for name in PUBLIC:
        assert re.search(rf"\b{name}\b", section), name
