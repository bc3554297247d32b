"""The layout is the architecture: which part of nbdfork may import which."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.support.harness import output
from tests.support.paths import ROOT

PACKAGE = ROOT / "nbdfork"

ALLOWED = {
    "server": {"nbdfork.server", "nbdfork.types"},
    "server/sandbox": {"nbdfork.server.sandbox", "nbdfork.server.errors", "nbdfork.types"},
    "protocol": {
        "nbdfork.protocol",
        "nbdfork.types",
        "nbdfork.backend",
        "nbdfork.speedups",
    },
    "speedups": {"nbdfork.speedups", "nbdfork.types"},
    "backend": {"nbdfork", "nbdfork.backend", "nbdfork.plugin", "nbdfork.types"},
    "plugin": {"nbdfork.plugin", "nbdfork.types"},
    "scripting": {"nbdfork.scripting", "nbdfork.plugin"},
    "filters": {"nbdfork.filters", "nbdfork.plugin", "nbdfork.types"},
}
"""The wings, and what each may import of nbdfork: these modules and what is below them."""

ORDER = {
    "server": [
        ["departures", "errors", "files", "linux", "notify", "peers"],
        ["pool", "processes", "signals", "slots", "stopper"],
        ["sandbox", "scoreboard", "sockets"],
        ["budget"],
        ["privileges", "daemon", "captive", "inheritance", "parent", "admission", "handover"],
        ["caretaker", "control", "stdio", "entrance", "room", "service", "watchdog"],
        ["threads"],
        ["worker"],
        ["generation"],
        ["generations"],
        ["orders"],
        ["reloading"],
        ["supervisor"],
    ],
    "server/sandbox": [
        ["calls", "limits", "readable", "users"],
        ["capabilities", "landlock", "seccomp"],
        ["visibility"],
        ["sandbox"],
        ["programs"],
    ],
    "protocol": [
        ["errors", "stream", "wire"],
        ["splicing", "texts", "tls"],
        ["access", "channel", "metacontexts", "meter", "optiondata"],
        ["replies"],
        ["transmission"],
        ["handshake", "parallel", "runs"],
        ["adaptive", "pipelined"],
        ["connection"],
    ],
    "plugin": [
        ["_serving", "errors", "mapping", "parse", "pipeline", "version"],
        ["_kept"],
        ["client", "parameters", "export", "shared"],
        ["server"],
        ["lost"],
        ["descriptor", "password", "plugin"],
        ["filter", "loaded"],
    ],
    "scripting": [
        ["callbacks", "frames", "guard", "script"],
        ["channel", "export"],
        ["template"],
        ["helper"],
        ["plugin"],
        ["embedded"],
    ],
    "backend": [
        ["client", "errors", "extents", "facts", "kept", "known"],
        ["absent"],
        ["arguments"],
        ["gate", "handle", "loaders"],
        ["load", "pipelined"],
        ["chain"],
        ["exports", "life"],
    ],
}
"""Within a wing, each row may import only rows above it."""

ROOF = [
    ["argumentfiles", "ctltop", "declaration", "logs", "manners", "metrics", "status"],
    ["tomlplaces", "types", "uri", "values"],
    ["assembly", "controlhttp", "ctl", "configfile", "credentials", "launch"],
    ["firstoptions", "tlsoptions"],
    ["options"],
    ["cli", "configschema", "layers", "translation"],
    ["configdump", "disks", "embed", "info", "succession"],
    ["main", "pytest_plugin"],
]
"""The same for the modules above the wings."""

C_PARTS = ROOT / "plugins" / "c"

C_FOLDERS = (C_PARTS, PACKAGE / "speedups")

C_ORDER = [
    ["api"],
    ["current"],
    ["crash"],
    ["upcalls"],
    ["messages"],
    ["strings", "server", "lists", "peer"],
    ["parse"],
    ["plugin"],
    ["calls", "slots"],
    ["handle"],
    ["requests"],
    ["client"],
    ["library"],
    ["module"],
]
"""The parts of the extension module for C plugins: each row may include only rows above it."""


def is_module(name: str) -> bool:
    base = ROOT / name.replace(".", "/").replace("nbdfork/plugins", "plugins")
    return base.with_suffix(".py").exists() or (base / "__init__.py").exists()


def imports(path: Path) -> set[str]:
    """Return the modules of nbdfork that *path* imports, names of submodules resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level or not path.is_relative_to(PACKAGE), f"{path}: a relative import"
            for alias in node.names if node.module and not node.level else ():
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if is_module(submodule) else str(node.module))
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
            inside = name.removeprefix(f"nbdfork.{wing.replace('/', '.')}.")
            if inside != name:
                assert rank[inside.split(".")[0]] < rank[path.stem], f"{path}: {name}"


def test_the_roof_stands_in_its_order() -> None:
    rank = {f"nbdfork.{name}": row for row, names in enumerate(ROOF) for name in names}
    for path in PACKAGE.glob("[!_]*.py"):
        for name in imports(path) & rank.keys():
            assert rank[name] < rank[f"nbdfork.{path.stem}"], f"{path}: {name}"


def test_only_the_command_line_knows_the_options() -> None:
    """Below it, functions take the values that they use; `embed` takes its defaults from there."""
    knowing = {path.stem for path in PACKAGE.rglob("*.py") if "nbdfork.options" in imports(path)}
    about_files = {"configdump", "configschema", "disks", "translation", "succession"}
    assert knowing == {"cli", "embed", "info", "layers", "main"} | about_files


CONTRACT = {"nbdfork.plugin", "nbdfork.plugin.client", "nbdfork.plugin.parse"}
"""The contract, and the modules that are among its names."""


def test_the_contract_has_no_back_door() -> None:
    """Only two modules write what the contract reads; all others use the public names."""
    writing = (PACKAGE / "backend/client.py", PACKAGE / "backend/kept.py")
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "plugin" and path not in writing:
            used = {name for name in imports(path) if is_below(name, "nbdfork.plugin")}
            assert used <= CONTRACT, path


def test_plugins_import_only_the_public_contract() -> None:
    # Two modules are among the names of the first, and one among those of the second.  Two plugins
    # are the filters of their names over a file.
    public = CONTRACT | {"nbdfork.scripting", "nbdfork.scripting.frames"}
    for path in (ROOT / "plugins").rglob("*.py"):
        over = {f"nbdfork.filters.{path.stem}"} if path.stem in ("gzip", "xz") else set()
        assert imports(path) <= public | over, path  # and, relatively, other plugins


def included(path: Path) -> list[str]:
    """Return the parts whose headers a C file includes."""
    return re.findall(r'^#include "(\w+)\.h"$', path.read_text(), re.MULTILINE)


def test_includes_of_the_extension_module_point_down() -> None:
    rank = {name: row for row, names in enumerate(C_ORDER) for name in names}
    paths = [*C_PARTS.glob("*.c"), *C_PARTS.glob("*.h")]
    assert {path.stem for path in paths} == rank.keys()
    for path in paths:
        names = included(path)
        if path.suffix == ".c" and path.with_suffix(".h").exists():
            assert names.pop(0) == path.stem, f"{path}: its own header comes first"
        for name in names:
            assert rank[name] < rank[path.stem], f"{path}: {name}"


def test_a_part_of_the_extension_module_offers_only_what_it_declares() -> None:
    """Otherwise the order of the headers would say nothing of what calls what."""
    rank = {name: row for row, names in enumerate(C_ORDER) for name in names}
    api: dict[str, str] = {}
    for source in C_PARTS.glob("*.c"):
        text = source.read_text()
        defined = re.findall(r"^PRIVATE [^;=]*?\n(\w+) \(", text, re.MULTILINE)
        if source.with_suffix(".h").exists():
            header = source.with_suffix(".h").read_text()
            declared = re.findall(r"^PRIVATE [^;(]*?(\w+) \(", header, re.MULTILINE)
        else:
            declared = []
        assert sorted(declared) == sorted(defined), source
        api |= dict.fromkeys(re.findall(r"^(nbdkit_\w+) \(", text, re.MULTILINE), source.stem)
    assert len(api) > 30
    for source in C_PARTS.glob("*.c"):  # these are all in one header, so look for the calls
        for name in re.findall(r"\b(nbdkit_\w+) \(", source.read_text()):
            if name in api and api[name] != source.stem:
                assert rank[api[name]] < rank[source.stem], f"{source}: {name}"


def test_every_module_states_its_law_and_stays_small() -> None:
    for path in [file for parts in C_FOLDERS for file in parts.glob("*.[ch]")]:
        text = path.read_text()
        assert text.startswith("/* "), path
        assert len(text.splitlines()) <= 400, path
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), path
        assert len(text.splitlines()) <= 400, path


def test_the_map_names_every_module_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (block,) = re.findall(r"^nbdfork/\n(.*?)^plugins/", text, re.MULTILINE | re.DOTALL)
    named: dict[str, set[str]] = {"": set()}
    wing = ""
    for indent, name, slash in re.findall(r"^( +)(\w+)(/?) ", block, re.MULTILINE):
        if slash:
            wing = name
            named[wing] = set()
        elif len(indent) == (4 if wing else 2):
            named[wing].add(name)
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert named.keys() - {""} == wings
    for wing in named.keys() - {"filters"}:
        found = {path.stem for path in (PACKAGE / wing).glob("*.py")} - {"__init__", "__main__"}
        if wing:
            found |= {path.parent.name for path in (PACKAGE / wing).glob("*/__init__.py")}
        assert named[wing] == found, f"ARCHITECTURE.md, nbdfork/{wing}"
    for path in PACKAGE.glob("*/*/*.py"):  # a folder within a wing names its modules in its entry
        assert path.stem == "__init__" or re.search(rf"\b{path.stem}\b", block), path


def test_magic_numbers_of_the_protocol_stand_in_one_file() -> None:
    for path in PACKAGE.rglob("*.py"):
        numbers = [
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and type(node.value) is int
        ]
        assert path.name == "wire.py" or not any(n > 0xFFFFFFFF for n in numbers), path


def test_forks_stand_in_five_places() -> None:
    places = {path.stem for path in PACKAGE.rglob("*.py") if "os.fork()" in path.read_text()}
    # A worker, a daemon, a program's server, what operators talk to, what an old program leaves.
    assert places == {"generation", "launch", "embed", "control", "caretaker"}


def test_a_start_imports_only_what_every_server_needs() -> None:
    """What takes long to import, and is needed by few or later, must not delay being ready."""
    costly = {"argparse", "asyncio", "concurrent.futures", "dataclasses", "difflib", "inspect"}
    costly |= {"psutil", "shutil", "ssl", "subprocess", "tempfile"}
    script = "import sys, nbdfork.main; print(*sys.modules)"
    before = set(output(sys.executable, "-c", "import sys; print(*sys.modules)").split())
    assert not costly & (set(output(sys.executable, "-c", script).split()) - before)
