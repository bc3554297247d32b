"""The tests keep to their own house rules: what they share is in support, and who has a test."""

import ast
import re
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


SLEEP = re.compile(r"\.sleep *\(|import sleep|\bsleep\W{1,4}(?P<seconds>\d[\d.]*)")

LONG = 60
"""Who sleeps for so many seconds is a program that runs until something ends it."""

MAY_SLEEP = {
    "support/harness.py": "`eventually` looks again and again for what all others wait for",
    "plugins/test_sh_runs.py": "a script must not be called again, which no event tells of",
}


def sleeps(path: Path) -> list[str]:
    """Return what in *path* lets time pass, in Python or in a script."""
    found = SLEEP.finditer(path.read_text())
    return [one[0] for one in found if float(one["seconds"] or 0) < LONG]


def test_no_test_sleeps() -> None:
    """They wait for a condition, with `eventually`, a pipe, a fifo, or select(2)."""
    found = {
        str(path.relative_to(TESTS)): sleeps(path)
        for path in sorted(TESTS.rglob("*.*"))
        if path.is_file() and path.suffix not in (".pyc", ".so") and path != Path(__file__)
    }
    found = {name: what for name, what in found.items() if what}
    assert {name: len(what) for name, what in found.items()} == dict.fromkeys(MAY_SLEEP, 1), found


WITHOUT_UNIT_TESTS = {
    "__init__": "names from other modules, and the version",
    "__main__": "one call; whatever runs the command runs it",
    "assembly": "it only hands the wings to each other: every test with a server runs it",
    "backend/client": "names from another module; `plugin/test_client` is about them",
    "controlhttp": "it serves the control socket: clients/test_control.py",
    "ctl": "the command nbdforkctl as a whole: clients/test_control.py",
    "embed": "it starts a server: clients/test_embed.py",
    "info": "it prints, and the command is what is tested: clients/test_info.py",
    "main": "the command as a whole: everything in clients",
    "backend/kept": "names from another module; `plugin/test_shared` is about them",
    "plugin/_kept": "what a program remembers; `plugin/test_shared` is about it",
    "plugin/_serving": "what a thread remembers; `plugin/test_client` is about it",
    "plugin/loaded": "a tuple without methods",
    "plugin/pipeline": "methods without a body, and a name: protocol/test_pipelined.py has one",
    "plugin/version": "a number: backend/test_load.py has what follows from it",
    "server/caretaker": "it forks: clients/test_reload.py",
    "server/generations": "a list of generations: every test with a server runs it",
    "server/orders": "a table: clients/test_control.py gives them all",
    "server/reloading": "it ends the process in another program: clients/test_reload.py",
    "server/slots": "one with the scoreboard: server/test_scoreboard.py",
    "succession": "it hands options on: clients/test_reload.py",
    "translation": "it hands options on: what comes of them is tested where it is seen",
    "protocol/errors": "exceptions without methods",
    "protocol/stream": "a protocol for type checkers",
    "pytest_plugin": "a fixture, which clients/test_embed.py uses",
    "scripting/embedded": "the language of `scripting/test_plugin` is an embedded one",
    "scripting/guard": "it guards a process: faults/test_helpers.py",
    "scripting/helper": "it needs a helper process: plugins/test_host.py",
    "scripting/template": "it needs a helper process: plugins/test_host.py",
    "firstoptions": "declarations, tested with all others: test_options.py",
    "tlsoptions": "declarations, tested with all others: test_options.py",
    "server/errors": "exceptions without methods",
    "server/generation": "a pool of processes: clients/test_pool.py",
    "server/supervisor": "a pool of processes: clients/test_pool.py",
    "server/worker": "the child's side of a fork: clients/test_pool.py",
    "types": "a name for type checkers",
}
"""Modules without a file in tests/unit, and why.  Those of the filters are in tests/filters."""


def modules(folder: Path) -> set[str]:
    """Return the modules below *folder*, but for the packages that contain others."""
    return {
        str(path.relative_to(folder).with_suffix(""))
        for path in folder.rglob("*.py")
        if path.name != "__init__.py" or path.parent == folder
    }


def having_tests(folder: Path) -> set[str]:
    """Return the modules whose tests are below *folder*."""
    found = (path.relative_to(folder) for path in folder.rglob("test_*.py"))
    return {str(path.with_name(path.stem.removeprefix("test_"))) for path in found}


def test_every_module_has_its_unit_tests_or_a_reason_to_have_none() -> None:
    own = {name for name in modules(ROOT / "nbdfork") if not name.startswith("filters/")}
    tested = having_tests(TESTS / "unit")
    assert own - tested - WITHOUT_UNIT_TESTS.keys() == set()
    assert tested - own == {"scripting/scripting", "speedups/native"}, "a test of no module"
    assert WITHOUT_UNIT_TESTS.keys() & tested == set(), "an excuse that is not needed"
    assert WITHOUT_UNIT_TESTS.keys() <= own, "an excuse for what is no more"


def test_every_filter_and_every_plugin_has_its_file() -> None:
    filters = {name.removeprefix("_") for name in modules(FILTERS) if name != "__init__"}
    tested = having_tests(TESTS / "filters")
    assert filters - tested - UNPACKING - set().union(*TOGETHER.values()) == set()
    assert TOGETHER.keys() <= tested
    plugins = {path.name.removesuffix(".py") for path in (ROOT / "plugins").iterdir()}
    named = {name for name in plugins if not name.startswith(("_", "."))}
    assert named - having_tests(TESTS / "plugins") == {"eval"}  # which is one with sh


FILTERS = ROOT / "nbdfork" / "filters"

UNPACKING = {"bzip2", "lz4", "frames"}
"""What they do is what all filters do that unpack: filters/test_unpack.py runs each of them."""

TOGETHER = {
    "bitmap": {"marks"},
    "blocksize": {"blocksize_policy", "ranges"},
    "clients": {
        "exitlast",
        "exitwhen",
        "limit",
        "openonce",
        "ip",
        "slots",
        "time_limit",
        "tls_fallback",
    },
    "content": {"checkwrite", "evil", "swab", "xor"},
    "time": {"bucket", "pause", "rate", "retry", "retry_request", "spinning"},
    "numbers": {"count", "stats"},
    "parts": {"ddrescue", "extentlist", "map", "protect"},
    "all": {"values"},
    "names": {"exportname", "multi_conn"},
    "simple": {"around", "fua", "nocache", "nofilter", "noparallel", "readonly", "rotational"},
    "cow": {"overlay"},
    "cache": {"cacheextents", "prefetch", "readahead", "room", "scan"},
    "offset": {"part"},
    "readers": {"lzip", "qcow2dec", "tar"},
}
"""Small filters that are tested together, by the names of the test files."""


DAEMONS = {
    path.stem
    for path in (TESTS / "support").glob("*.py")
    if "tests.support.daemon" in set(imported(path))
}

SERVERS = {
    *(
        f"tests.support.harness.{name}"
        for name in ("NBDFORK", "Server", "nbdfork", "output", "run")
    ),
    *(f"tests.support.{name}" for name in ("beside", "daemon", "guest", *DAEMONS)),
    "subprocess",
}


def test_unit_tests_start_no_server_and_no_program() -> None:
    """`make unit` is for while one writes: it takes seconds."""
    for path in sorted((TESTS / "unit").rglob("*.py")):
        found = SERVERS.intersection(imported(path))
        assert not found, f"{path.relative_to(ROOT)} imports {', '.join(sorted(found))}"
