"""Plugins and filters are found: by name, as a file, and what a file may look like."""

from pathlib import Path

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.backend.load import (
    FILTER,
    PLUGIN,
    Kind,
    available,
    directory,
    dump,
    find,
    nbdkit_directory,
)
from nbdfork.plugin import API_VERSION, ConfigError


@pytest.mark.parametrize("kind", [PLUGIN, FILTER], ids=lambda kind: kind.word)
def test_what_several_share_is_none_of_them(kind: Kind) -> None:
    shared = {path.stem for path in Path(directory(kind)).glob("_[a-z]*")}
    assert shared
    for name in shared:
        assert name not in available(kind)
        with pytest.raises(ConfigError, match=f"there is no {kind.word} '{name}'"):
            find(name, kind)


@pytest.mark.parametrize("method", ["dump_plugin", "one_process", "thread_model"])
def test_a_bug_in_what_is_dumped_names_the_plugin(tmp_path: Path, method: str) -> None:
    (tmp_path / "buggy.py").write_text(f"def {method}(self):\n    raise KeyError('x')\n")
    found = find(str(tmp_path / "buggy.py"))
    with pytest.raises(ConfigError, match=f"^buggy: {method} failed: KeyError: 'x'"):
        dict(dump(found, found.plugin_class()))


def test_a_file_with_a_dataclass_can_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "dated.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from nbdfork.plugin import Plugin\n"
        "@dataclass\n"
        "class Point:\n    x: int = 0\n"
        "class Dated(Plugin):\n    'a disk'\n"
    )
    assert find(str(tmp_path / "dated.py")).plugin_class.__name__ == "Dated"


def test_a_file_can_be_the_body_of_a_class(tmp_path: Path) -> None:
    (tmp_path / "body.py").write_text(
        '"a disk of one letter"\n'
        "from nbdfork.plugin import Parameter, parse\n"
        "size = Parameter(parse.size, required=True, magic=True, metavar='SIZE', help='its size')\n"
        "_letter = b'a'\n"
        "def config_complete(self): self.letter = self._letter.upper()\n"
        "def get_size(self): return self.size\n"
        "def pread(self, count, offset): return self.letter * count\n"
    )
    found = find(str(tmp_path / "body.py"))
    assert found.plugin_class.__doc__ == "a disk of one letter"
    plugin = found.plugin_class(size="10")
    plugin.config_complete()
    gate = Gate(plugin, read_only=False)
    assert (gate.size, gate.can_write, gate.pread(3, 7)) == (10, False, b"AAA")


@pytest.mark.parametrize("kind", [PLUGIN, FILTER], ids=lambda kind: kind.word)
@pytest.mark.parametrize(("needed", "fits"), [(1, True), (API_VERSION, True), (9999, False)])
def test_what_needs_a_newer_contract_is_refused(
    kind: Kind, needed: int, fits: bool, tmp_path: Path
) -> None:
    path = tmp_path / "newer.py"
    base = kind.base.__name__
    path.write_text(
        f"from nbdfork.plugin import {base}\nclass Newer({base}):\n    api_version = {needed}\n"
    )
    if fits:
        assert find(str(path), kind).plugin_class.api_version == needed
        return
    with pytest.raises(ConfigError, match=rf"newer.py' needs version {needed} of the plugin API"):
        find(str(path), kind)


def test_a_version_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "body.py"
    path.write_text("api_version = '2'\ndef get_size(self): return 0\n")
    with pytest.raises(ConfigError, match=r"needs version '2' of the plugin API.* has"):
        find(str(path))


def test_who_imports_what_the_contract_does_not_have_yet_is_told_its_version(
    tmp_path: Path,
) -> None:
    path = tmp_path / "newer.py"
    path.write_text("from nbdfork.plugin import Plugin, Teleport\n")
    with pytest.raises(ConfigError, match=rf"'Teleport'.*has version {API_VERSION} of the plugin"):
        find(str(path))
    path.write_text("from os import teleport\n")
    with pytest.raises(ConfigError, match="'teleport' from 'os'") as caught:
        find(str(path))
    assert "plugin API" not in str(caught.value)


def test_what_fails_while_it_is_loaded_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "disk.py"
    path.parent.mkdir()
    for text, message in {
        "import os\nimport nothing_like_it\n": "disk.py:2: ModuleNotFoundError: No module named",
        "def f():\n  return 1/0\n\nx = f()\n": "disk.py:2: ZeroDivisionError: division by zero",
        "def f(:\n": "disk.py:1: SyntaxError: invalid syntax",
        "import json\n\njson.loads('{')\n": "disk.py:3: JSONDecodeError: ",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            find(f"{tmp_path}/./sub/disk.py")
        assert f"disk.py': {tmp_path}/sub/{message}" in str(caught.value)


def test_the_plugins_of_an_installed_nbdkit_are_found() -> None:
    directory = nbdkit_directory()
    assert directory is not None, "Debian's nbdkit is not installed"
    found = find("sparse-random")
    assert found.path == f"{directory}/nbdkit-sparse-random-plugin.so"
    assert find("memory").path.endswith("memory.py")  # our own come first
    assert find("S3").name == "s3"
