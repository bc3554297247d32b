"""The public contract is one list: the code, the manual and what is written down agree."""

import ast
import re
from collections.abc import Iterator
from types import FunctionType, ModuleType

import pytest

import nbdfork.plugin
import nbdfork.scripting
from nbdfork.plugin import (
    DescriptorExport,
    Export,
    Filter,
    Pipeline,
    Plugin,
    Server,
    client,
    parse,
)
from tests.support.contract import MODULES, SNAPSHOT, bare, contract, members, public, signature
from tests.support.manual import rendered, source, unescaped
from tests.support.paths import ROOT

PAGES = {
    nbdfork.plugin: ("nbdfork-plugin.3", "nbdfork-filter.3"),
    nbdfork.scripting: ("nbdfork-host-plugin.3",),
}
"""The pages that have all of a module."""

PLUGIN_PAGE = "nbdfork-plugin.3"


def test_it_is_as_it_is_written_down() -> None:
    assert contract() == SNAPSHOT.read_text(), (
        "the contract has changed; if that is meant: python -m tests.support.contract, and"
        " CONTRIBUTING.md, Versions"
    )


def text_of(module: ModuleType) -> str:
    return "\n".join(rendered(page) for page in PAGES[module])


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.__name__))
def test_every_name_can_be_imported_and_is_in_the_manual(module: ModuleType) -> None:
    assert module.__all__ == sorted(set(module.__all__), key=_as_ruff_sorts)
    text = text_of(module)
    for name in module.__all__:
        assert hasattr(module, name)
        assert re.search(rf"\b{name}\b", text), f"{name} is in none of {PAGES[module]}"


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def functions() -> Iterator[tuple[str, object]]:
    """Yield what the pages of plugins and filters must explain: methods, and functions."""
    for owner in (Export, Plugin, Filter, Server, Pipeline):
        for name, value in members(owner):
            if name != "__init__":
                yield name, value
    for module in (client, parse):
        for name in public(module):
            yield f"{module.__name__.rpartition('.')[2]}.{name}", getattr(module, name)
    for name in ("read_password", "shown", "parameters_of"):
        yield name, getattr(nbdfork.plugin, name)


def test_every_method_and_function_is_in_the_manual_as_it_is() -> None:
    text = re.sub(r"\s+", " ", text_of(nbdfork.plugin))
    for name, value in functions():
        whole = f"{name}{signature(value)}" if isinstance(value, FunctionType) else name
        told = [whole, whole.partition(" -> ")[0]]
        if "(self)" in whole:
            told.append(f"{name}()")
        if name.startswith(("parse.", "client.C", "client.P")):
            told.append(name.rpartition(".")[2])
        assert any(one in text for one in told), whole


def heads(page: str) -> list[str]:
    """Return the calls that a page explains in its lists."""
    found = re.findall(r'^\.It Cm "([\w.]+\(.*)"$', source(page), re.MULTILINE)
    return [unescaped(head) for head in found]


def known_calls() -> set[str]:
    """Return every call that a page may explain, with types or without."""
    calls = set()
    for name, value in functions():
        if isinstance(value, FunctionType):
            calls |= {f"{name}{signature(value)}", f"{name}{bare(value)}"}
    for name in public(nbdfork.plugin):
        value = getattr(nbdfork.plugin, name)
        if isinstance(value, type) and "__init__" in vars(value):
            calls.add(f"{name}{bare(vars(value)['__init__'])}")
    typed = signature(DescriptorExport.__init__).partition(" -> ")[0]
    return calls | {f"DescriptorExport{typed.replace('self, ', '')}"}


def test_every_call_that_the_manual_explains_is_one() -> None:
    explained = [head for page in PAGES[nbdfork.plugin] for head in heads(page)]
    assert len(explained) > 40
    unknown = [head for head in explained if "..." not in head and head not in known_calls()]
    assert not unknown


IMPORT = re.compile(r"^from nbdfork\.(?:plugin|scripting) import .*", re.MULTILINE)


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "man").iterdir()))
def test_what_the_manual_imports_is_public(page: str) -> None:
    text = unescaped(source(page)) if "from nbdfork." in source(page) else ""
    for statement in IMPORT.findall(text):
        (node,) = ast.parse(statement.removesuffix(", ...")).body
        assert isinstance(node, ast.ImportFrom)
        module = getattr(nbdfork, str(node.module).partition(".")[2])
        assert {alias.name for alias in node.names} <= set(module.__all__), statement


def test_no_document_sends_anybody_below_the_contract() -> None:
    texts = {path: path.read_text() for path in (ROOT / "man").iterdir()}
    texts |= {path: path.read_text() for path in (ROOT / "contrib/examples").rglob("*.py")}
    texts[ROOT / "CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text()
    for path, text in texts.items():
        for module, name in re.findall(r"nbdfork\.(plugin|scripting)\.(\w+)", text):
            if f"nbdfork.{module}.{name}" != "nbdfork.plugin.3":
                assert name in getattr(nbdfork, module).__all__, f"{path}: nbdfork.{module}.{name}"


def test_the_modules_among_the_names_have_lists_of_their_own() -> None:
    for module in (client, parse):
        defined = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        }
        assert defined <= set(module.__all__)
