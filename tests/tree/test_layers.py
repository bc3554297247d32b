"""The layout is the architecture: which part of nbdfork may import which."""

import ast
import sys
from pathlib import Path

import pytest

from tests.support.harness import output
from tests.support.paths import ROOT

PACKAGE = ROOT / "nbdfork"

ALLOWED = {
    "server": {"nbdfork.server", "nbdfork.types"},
    "protocol": {
        "nbdfork.protocol",
        "nbdfork.types",
        "nbdfork.backend",
        "nbdfork.plugin.errors",
        "nbdfork.plugin.export",
    },
    "backend": {"nbdfork", "nbdfork.backend", "nbdfork.plugin", "nbdfork.types"},
    "plugin": {"nbdfork.plugin", "nbdfork.types"},
    "scripting": {"nbdfork.scripting", "nbdfork.plugin"},
    "filters": {"nbdfork.filters", "nbdfork.plugin", "nbdfork.types"},
}
"""The wings, and what each may import of nbdfork: these modules and what is below them."""

ORDER = {
    "server": [
        ["errors", "linux", "pool", "processes", "scoreboard", "stopper"],
        ["privileges", "sockets", "daemon", "captive", "inheritance"],
        ["stdio", "entrance", "service"],
        ["threads"],
        ["worker"],
        ["generation"],
        ["supervisor"],
    ],
    "protocol": [
        ["errors", "stream", "wire"],
        ["tls"],
        ["channel", "metacontexts", "optiondata"],
        ["replies"],
        ["transmission"],
        ["handshake", "parallel"],
        ["connection"],
    ],
    "plugin": [
        ["_serving", "errors", "mapping", "parse", "server"],
        ["client", "parameters", "export", "shared"],
        ["descriptor", "password", "plugin"],
        ["filter"],
    ],
    "scripting": [
        ["callbacks", "frames", "script"],
        ["connection", "export"],
        ["template"],
        ["helper"],
        ["plugin"],
        ["embedded"],
    ],
    "backend": [
        ["client", "extents", "load"],
        ["gate", "handle"],
        ["backend"],
    ],
}
"""Within a wing, each row may import only rows above it."""


def imports(path: Path) -> set[str]:
    """Return the modules of nbdfork that *path* imports, names of submodules resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                is_module = (ROOT / f"{submodule.replace('.', '/')}.py").exists()
                found.add(submodule if is_module else node.module)
    return {name for name in found if name.split(".")[0] == "nbdfork"}


def is_below(name: str, allowed: str) -> bool:
    return name == allowed or (allowed != "nbdfork" and name.startswith(f"{allowed}."))


@pytest.mark.parametrize("wing", ALLOWED)
def test_wings_do_not_know_each_other(wing: str) -> None:
    for path in (PACKAGE / wing).glob("*.py"):
        for name in imports(path):
            assert any(is_below(name, allowed) for allowed in ALLOWED[wing]), f"{path}: {name}"


@pytest.mark.parametrize("wing", ORDER)
def test_imports_point_down(wing: str) -> None:
    rank = {name: row for row, names in enumerate(ORDER[wing]) for name in names}
    for path in (PACKAGE / wing).glob("*.py"):
        if path.stem == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["nbdfork", wing] and len(parts) > 2:
                assert rank[parts[2]] < rank[path.stem], f"{path}: {name}"


def test_plugins_import_only_the_public_contract() -> None:
    parts = ("client", "descriptor", "parse", "password")
    public = {"nbdfork.plugin", *(f"nbdfork.plugin.{part}" for part in parts)}
    public |= {"nbdfork.scripting", "nbdfork.scripting.frames"}
    for path in (ROOT / "plugins").rglob("*.py"):
        if path.stem in ("gzip", "xz"):  # each is the filter of its name over a file
            assert all(is_below(name, "nbdfork.filters") for name in imports(path) - public)
            continue
        assert imports(path) <= public, path  # and, relatively, other plugins


def test_every_module_states_its_law_and_stays_small() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), path
        assert len(text.splitlines()) <= 400, path


def test_wire_numbers_stand_in_one_file() -> None:
    for path in PACKAGE.rglob("*.py"):
        numbers = [
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and type(node.value) is int
        ]
        assert path.name == "wire.py" or not any(n > 0xFFFFFFFF for n in numbers), path


def test_the_pool_forks_in_one_place() -> None:
    places = [
        path.name for path in (PACKAGE / "server").glob("*.py") if "os.fork()" in path.read_text()
    ]
    assert sorted(places) == ["daemon.py", "generation.py"]  # daemon: to wait in the foreground


def test_a_start_imports_only_what_every_server_needs() -> None:
    """What takes long to import, and is needed by few or later, must not delay being ready."""
    costly = {"argparse", "asyncio", "concurrent.futures", "dataclasses", "difflib", "inspect"}
    costly |= {"psutil", "shutil", "ssl", "subprocess", "tempfile"}
    script = "import sys, nbdfork.main; print(*sys.modules)"
    before = set(output(sys.executable, "-c", "import sys; print(*sys.modules)").split())
    assert not costly & (set(output(sys.executable, "-c", script).split()) - before)
