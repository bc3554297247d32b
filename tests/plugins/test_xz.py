"""The xz plugin: the filter of this name over a file."""

import errno
import lzma
import os
from pathlib import Path

import pytest

from nbdfork.backend.load import find
from nbdfork.plugin import ConfigError
from tests.support.compressed import MIB, need_libraries
from tests.support.harness import nbdfork


def test_what_is_not_compressed_is_refused(tmp_path: Path) -> None:
    need_libraries("xz")
    (tmp_path / "disk").write_bytes(b"plain text" * 100)
    done = nbdfork("-U", "-", "xz", tmp_path / "disk", "--run", "true")
    assert done.returncode == 1
    assert done.stderr.startswith(f"nbdfork: error: xz: {tmp_path}/disk: th")
    assert "not xz data" in done.stderr


def test_the_plugin_looks_at_the_file_at_once(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "none", "No such file"), (tmp_path, "neither a regular")):
        done = nbdfork("-U", "-", "xz", path, "--run", "true")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert problem in done.stderr
        assert str(path) in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["xz", "f", "maxdepth=0"], "expected a whole number from 1"),
        (["xz", "f", "maxblock=0"], "no block has 0 bytes"),
    ],
)
def test_wrong_parameters(words: list[str], problem: str) -> None:
    done = nbdfork("-U", "-", *words, "--run", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert problem in done.stderr


def test_the_plugin_names_the_file_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    path = tmp_path / "disk.xz"
    path.write_bytes(lzma.compress(b"few words"))
    plugin = find("xz").plugin_class(file=str(path))
    plugin.config_complete()
    monkeypatch.setattr(os, "open", deny)  # root may open all
    with pytest.raises(ConfigError, match=f"xz: {path}: Permission denied"):
        plugin.get_ready()


def test_the_limits_of_the_xz_plugin(tmp_path: Path) -> None:
    (tmp_path / "disk.xz").write_bytes(lzma.compress(bytes(MIB)))
    done = nbdfork("-U", "-", "xz", tmp_path / "disk.xz", "maxblock=1000k", "--run", "true")
    assert done.returncode == 1
    assert "unpacks to 1048576 bytes, more than maxblock=1024000" in done.stderr
