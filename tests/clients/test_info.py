"""What nbdfork prints: of itself, of its plugins, and of mistakes on the command line."""

import os
import re
import sys
from pathlib import Path

import pytest

import nbdfork as package
from nbdfork.backend import load
from nbdfork.backend.arguments import help_rows
from nbdfork.options import TABLE
from nbdfork.plugin import API_VERSION, parameters_of
from tests.support.harness import nbdfork, output
from tests.support.speedups import need_speedups


def pairs(text: str) -> list[tuple[str, str]]:
    return [(line.split("=", 1)[0], line.split("=", 1)[1]) for line in text.splitlines()]


def test_help_names_every_option() -> None:
    done = nbdfork("--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for option in TABLE:
        assert option.help in text
        for name in option.names:
            assert name in done.stdout


def test_help_fits_a_terminal_and_describes_all_that_can_be_named() -> None:
    done = nbdfork("-h")
    assert done.stdout == nbdfork("--help").stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "memory a RAM disk, sparse and shared by all clients" in lines
    assert "cow let clients write, but keep the disk as it is" in lines
    words = {line.split()[0] for line in lines if line}
    assert words >= {*load.available(load.PLUGIN), *load.available(load.FILTER)}


@pytest.mark.parametrize("words", [("-h", "file"), ("file", "--help")])
def test_help_of_a_plugin(words: tuple[str, ...]) -> None:
    done = nbdfork(*words)
    assert done.returncode == 0
    assert done.stdout.startswith("plugin: file - serve a file or a block device\n")
    assert "[file=]FILENAME" in done.stdout
    assert "(default: normal)" in done.stdout


def test_help_of_filters_comes_after_that_of_the_plugin() -> None:
    words = "--filter=offset", "--filter=cow", "memory", "--help"
    text = nbdfork(*words).stdout
    found = [text.index(f"{title} - ") for title in ("plugin: memory", "filter: cow")]
    assert found == sorted(found)
    assert found[-1] < text.index("filter: offset - ") < text.index("usage: ")
    assert "filter: cow" in nbdfork("--help", "--filter=cow").stdout


@pytest.mark.parametrize("kind", [load.PLUGIN, load.FILTER], ids=lambda kind: kind.word)
def test_defaults_are_shown_as_they_are_typed(kind: load.Kind) -> None:
    for found in (load.find(name, kind) for name in load.available(kind)):
        declared = parameters_of(found.plugin_class)
        for parameter, (form, text) in zip(declared.values(), help_rows(declared), strict=True):
            if parameter.default not in (None, ()):
                shown = re.sub(r".*\(default: (.*)\)$", r"\1", text)
                assert parameter.parse(shown) == parameter.default, form


def test_version() -> None:
    assert nbdfork("-V").stdout == f"nbdfork {package.__version__}\n"
    expected = f"nbdfork {package.__version__}\nfile {package.__version__}\n"
    assert nbdfork("--version", "file").stdout == expected


def test_probing_for_exit_with_parent() -> None:
    assert nbdfork("--exit-with-parent", "--version").returncode == 0


def test_dump_config_begins_with_the_pairs_of_2016_in_their_order() -> None:
    found = pairs(nbdfork("--dump-config").stdout)
    first = ["bindir", "libdir", "mandir", "name", "plugindir", "sbindir", "sysconfdir", "version"]
    assert [key for key, _ in found][:8] == first
    values = dict(found)
    assert values["name"] == "nbdfork"
    assert values["python"] == sys.executable
    assert values["plugin_api_version"] == str(API_VERSION)
    assert Path(values["plugindir"], "file.py").is_file()
    assert Path(values["bindir"], "nbdfork").is_file()
    assert f"{values['version_major']}.{values['version_minor']}." in values["version"]


def test_dump_config_says_whether_there_is_a_twin_in_c_and_the_user_can_do_without() -> None:
    def told(value: str) -> str:
        environment = {**os.environ, "NBDFORK_SPEEDUPS": value}
        text = output(sys.executable, "-m", "nbdfork", "--dump-config", env=environment)
        return dict(pairs(text))["speedups"]

    assert told("0") == "no"
    need_speedups()
    assert told("") == "yes"


def test_the_whole_path_of_a_plugin_works() -> None:
    directory = dict(pairs(nbdfork("--dump-config").stdout))["plugindir"]
    text = nbdfork("--dump-plugin", f"{directory}/memory.py").stdout
    assert ("name", "memory") in pairs(text)


def test_dump_plugin() -> None:
    found = dict(pairs(nbdfork("file", "--dump-plugin").stdout))
    assert found["name"] == "file"
    assert found["magic_config_key"] == "file"
    assert found["has_list_exports"] == "1"
    assert found["path"].endswith("/file.py")


def test_dump_plugin_makes_the_layers_that_would_be_served(tmp_path: Path) -> None:
    (tmp_path / "d.img").write_bytes(bytes(512))
    words = ["--filter=cow", "--dump-plugin", "file", str(tmp_path / "d.img"), "cow-on-cache=true"]
    assert dict(pairs(nbdfork(*words).stdout))["name"] == "file"
    done = nbdfork("--dump-plugin", *words[2:])  # without the filter
    assert done.returncode == 1
    assert "unknown parameter cow-on-cache=" in done.stderr
    done = nbdfork(*words, "-D", "cow.nosuch=1")
    assert done.returncode == 1
    assert "no such debug flag" in done.stderr


@pytest.mark.parametrize("option", ["--help", "--version", "--dump-plugin"])
def test_a_wrong_plugin_name_is_answered_with_the_right_ones(option: str) -> None:
    done = nbdfork(option, "memroy")
    assert done.returncode == 1
    assert "there is no plugin 'memroy'. Did you mean 'memory'?" in done.stderr
    for name in ("example1", "file", "memory", "null"):
        assert name in done.stderr


def test_a_path_that_is_no_plugin(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("1/0")
    (tmp_path / "plain").write_text("")
    expected = {
        "nosuch.py": "is not a file",
        "empty.py": "must define one Plugin class; it defines: none",
        "broken.py": "ZeroDivisionError",
        "plain": "its name must end in one of .lua, .ml, .pl, .py",
    }
    for name, message in expected.items():
        done = nbdfork(f"{tmp_path}/{name}")
        assert done.returncode == 1
        assert message in done.stderr


def test_third_party_plugins_are_found_by_entry_point(tmp_path: Path) -> None:
    (tmp_path / "thirdparty.py").write_text(
        "from nbdfork.plugin import Plugin\n"
        "class Third(Plugin):\n"
        "    'from another package'\n"
        "    def get_size(self): return 512\n"
        "    def pread(self, count, offset): return bytes(count)\n"
    )
    info = tmp_path / "thirdparty-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[nbdfork.plugins]\nthird = thirdparty:Third\n")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    text = output(sys.executable, "-m", "nbdfork", "-V", "third", env=environment)
    assert text.endswith("third 1.5\n")


def test_plugin_parameters_that_are_wrong() -> None:
    expected = {
        ("memory",): "memory: the parameter size=SIZE is required",
        ("memory", "size=3x"): "memory: size=3x: not a size",
        ("memory", "9E"): "too large: the limit is 2^63-1 bytes",
        ("memory", "1", "2"): "memory: size= is given twice",
        ("memory", "sizes=1"): "did you mean size=?",
        ("example1", "x=1"): "This plugin takes no parameters",
        ("example1", "x"): "'x' is not of the form key=value",
        ("file",): "give one of file=FILENAME, dir=DIRECTORY, fd=NUMBER and dirfd=NUMBER",
        ("file", "/nonexistent"): "file: /nonexistent: No such file or directory",
        ("file", "/usr"): "/usr is a directory: use dir=",
        ("file", "/dev/null"): "neither a regular file nor a block device",
        ("file", "dir=/etc/passwd"): "not a directory",
        ("file", "/etc/passwd", "fadvise=x"): "expected one of: normal, random, sequential",
        ("null", "-D", "nbdfork.x=1"): "no such debug flag; there is: backend.controlpath",
        ("null", "-D", "file.zero=1"): "'file' is none of: nbdfork, null",
        ("file", "/etc/passwd", "-D", "file.x=1"): "no such debug flag; the plugin has: zero",
    }
    for words, message in expected.items():
        done = nbdfork(*words)
        assert done.returncode == 1
        assert message in done.stderr, words
        assert len(done.stderr.splitlines()) == 1


def test_a_mistake_is_one_line_and_status_1() -> None:
    done = nbdfork("-U", "s", "-p", "3", "null")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("nbdfork: error: -U and -p cannot go together")
    assert len(done.stderr.splitlines()) == 2  # the second tells where to read


def test_no_plugin() -> None:
    done = nbdfork()
    assert done.returncode == 1
    assert "no plugin is given" in done.stderr
