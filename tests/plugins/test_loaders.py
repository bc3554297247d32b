"""Files that are plugins by their suffix: of languages that come with nbdfork, and of packages.

The package here is the one that nbdfork-host-plugin(3) shows: a language of its own, installed by
nothing but the directory that tells Python of it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.harness import NBDFORK, Server, nbdfork, need, output
from tests.support.libnbd import attempt, connect
from tests.support.manual import source, unescaped
from tests.support.paths import SCRIPTS
from tests.support.scripting import LANGUAGES, Language, id_of

HELPER = SCRIPTS / "helper.py"

HELPED = f"""\
import sys
from nbdfork.scripting import HelperPlugin

class Helped(HelperPlugin):
    "a disk in a language that has a helper"
    name = "helped"
    def command(self, path):
        return [sys.executable, {str(HELPER)!r}, path]
"""


class Packages:
    """Python packages in one directory, as installed ones are."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a server see them."""
        return {**os.environ, "PYTHONPATH": str(self._directory)}

    def install(self, name: str, code: str, **points: str) -> None:
        """Install the package *name*, version 1.5, whose one module is *code*.

        *points* are its loaders: the suffix, without a dot, and what is in the module.
        """
        (self._directory / f"{name}.py").write_text(code)
        info = self._directory / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        lines = [f".{suffix} = {name}:{what}\n" for suffix, what in points.items()]
        (info / "entry_points.txt").write_text("[nbdfork.loaders]\n" + "".join(lines))


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path / "site")


@pytest.fixture
def hexdisk(packages: Packages, tmp_path: Path) -> Path:
    """A disk in the language of the page, whose package is installed."""
    _, _, rest = source("nbdfork-host-plugin.3").partition("# hexdisk.py\n")
    packages.install("hexdisk", unescaped(rest.partition("\n.Ed\n")[0]), hex="Hex.load")
    path = tmp_path / "disk.hex"
    path.write_text("6e 62 64 66 6f 72 6b 0a" * 64)
    return path


# -- a language that an installed package brings ----------------------------------------------


def test_a_package_makes_its_interpreter_s_files_plugins(hexdisk: Path, packages: Packages) -> None:
    with Server("-n", hexdisk, environment=packages.environment) as server:
        client = connect(server.uri)
        assert client.get_size() == 512
        assert client.pread(512, 0) == b"nbdfork\n" * 64
        assert client.is_read_only()


def test_a_package_makes_its_helper_s_files_plugins(packages: Packages, tmp_path: Path) -> None:
    packages.install("helped", HELPED, helped="Helped.load")
    path = tmp_path / "disk.helped"
    path.write_text("")
    data = bytes(range(256)) * 256
    # The second argument has no key: it is the script's, which has a magic_config_key.
    with Server("-n", path, "good", environment=packages.environment) as server:
        one, other = connect(server.uri), connect(server.uri)
        one.pwrite(data, 0)
        assert other.pread(65536, 0) == data
    with Server("-n", path, "way=error", environment=packages.environment) as server:
        assert attempt(lambda: connect(server.uri).pread(512, 0)) == "ENOSPC"


def test_such_a_file_needs_no_slash_in_its_name(hexdisk: Path, packages: Packages) -> None:
    command = [*NBDFORK, "-U", "-", hexdisk.name, "--run", 'nbdinfo --size "$uri"']
    assert output(*command, cwd=hexdisk.parent, env=packages.environment) == "512\n"


def test_the_plugin_is_called_as_its_file(hexdisk: Path, packages: Packages) -> None:
    def tell(option: str) -> str:
        return nbdfork(option, hexdisk, env=packages.environment).stdout

    assert tell("-V").endswith("disk unknown\n")
    assert "name=disk\n" in tell("--dump-plugin")
    assert f"path={hexdisk}\n" in tell("--dump-plugin")
    assert "plugin: disk - " in tell("--help")


def test_a_script_that_cannot_be_loaded_is_one_line(hexdisk: Path, packages: Packages) -> None:
    hexdisk.write_text("no digits")
    done = nbdfork("-U", "-", hexdisk, "--run", "true", env=packages.environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"nbdfork: error: hex: {hexdisk}: load: ")
    assert done.stderr.count("\n") == 1


def test_an_argument_without_a_key_needs_one_of_the_script(
    hexdisk: Path, packages: Packages
) -> None:
    done = nbdfork("-U", "-", hexdisk, "more", "--run", "true", env=packages.environment)
    assert "hex: 'more' is not of the form key=value, and the script has no" in done.stderr


# -- packages that cannot ---------------------------------------------------------------------


def refusal(packages: Packages, path: Path) -> str:
    path.touch()
    done = nbdfork("-U", "-", path, "--run", "true", env=packages.environment)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_file_that_nobody_loads(hexdisk: Path, packages: Packages) -> None:
    message = refusal(packages, hexdisk.with_suffix(".zig"))
    assert "its name must end in one of .hex, .lua, .ml, .pl, .py, .rb, .so, .tcl" in message


def test_two_packages_for_one_suffix_are_both_named(packages: Packages, tmp_path: Path) -> None:
    packages.install("first", HELPED, zig="Helped.load")
    packages.install("second", HELPED, zig="Helped.load")
    message = refusal(packages, tmp_path / "disk.zig")
    assert "first 1.5 and" in message.replace("second 1.5 and", "first 1.5 and")
    assert "declares a loader for .zig files; uninstall all but one" in message


@pytest.mark.parametrize(
    ("code", "what", "expected"),
    [
        ("import nosuchmodule", "load", "No module named 'nosuchmodule'"),
        ("", "load", "AttributeError"),
        ("def load(path): 1 / 0", "load", "ZeroDivisionError: division by zero"),
        ("def load(path): return path", "load", "return a LoadedFile"),
        (
            "from nbdfork.plugin import LoadedFile\ndef load(path): return LoadedFile('x', path)",
            "load",
            "which is no class of Plugin",
        ),
    ],
)
def test_a_loader_that_does_not_work_is_named_with_its_package(
    code: str, what: str, expected: str, packages: Packages, tmp_path: Path
) -> None:
    packages.install("brokenpackage", code, zig=what)
    message = refusal(packages, tmp_path / "disk.zig")
    assert "the loader for .zig files, of brokenpackage 1.5," in message
    assert expected in message


def test_a_package_cannot_replace_a_loader_of_nbdfork(packages: Packages, tmp_path: Path) -> None:
    packages.install("greedy", "def load(path): 1 / 0", so="load", py="load")
    assert "greedy" not in refusal(packages, tmp_path / "disk.so")
    assert "must define one Plugin class" in refusal(packages, tmp_path / "disk.py")


def test_a_filter_is_not_loaded(hexdisk: Path, packages: Packages) -> None:
    done = nbdfork(f"--filter={hexdisk}", "null", env=packages.environment)
    assert "is not a Python file: its name must end in .py" in done.stderr


# -- the languages that come with nbdfork -----------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=id_of)
def test_a_script_is_served_by_its_path(language: Language) -> None:
    language.need()
    with Server("-n", language.ram, "size=1048576") as server:
        client = connect(server.uri)
        assert client.get_size() == 1 << 20
        client.pwrite(b"x" * 512, 512)
        assert connect(server.uri).pread(1024, 0) == bytes(512) + b"x" * 512


def test_a_source_in_ocaml_is_served_by_its_path(tmp_path: Path) -> None:
    need("ocamlopt")
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    with Server("-n", SCRIPTS / "labelled.ml", "size=1M", environment=cache) as server:
        assert connect(server.uri).get_size() == 1 << 20
