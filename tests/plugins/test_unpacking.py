"""The gzip and xz plugins: the filters of these names over a file."""

import errno
import lzma
import os
from pathlib import Path

import pytest

from nbdfork.backend.load import find
from nbdfork.plugin import ConfigError
from tests.support.compressed import MIB, need_libraries
from tests.support.harness import Server, nbdfork, run


def test_what_is_not_compressed_is_refused(tmp_path: Path) -> None:
    need_libraries("gzip", "xz")
    (tmp_path / "disk").write_bytes(b"plain text" * 100)
    for name in ("gzip", "xz"):
        done = nbdfork("-U", "-", name, tmp_path / "disk", "--run", "true")
        assert done.returncode == 1
        assert done.stderr.startswith(f"nbdfork: error: {name}: {tmp_path}/disk: th")
        assert f"not {name} data" in done.stderr
    with Server("--filter=gzip", "memory", "1M") as server:
        assert run("nbdinfo", server.uri).returncode != 0
        assert "the disk below: this is not gzip data" in server.log


def test_the_plugins_look_at_the_file_at_once(tmp_path: Path) -> None:
    for name in ("gzip", "xz"):
        for path, problem in ((tmp_path / "none", "No such file"), (tmp_path, "neither a regular")):
            done = nbdfork("-U", "-", name, path, "--run", "true")
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert problem in done.stderr
            assert str(path) in done.stderr


def test_the_plugins_name_the_file_that_cannot_be_opened(
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


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["gzip"], "file=FILENAME is required"),
        (["gzip", "f", "index-size=1k"], "an index takes at least 1M"),
        (["xz", "f", "maxdepth=0"], "expected a whole number from 1"),
        (["xz", "f", "maxblock=0"], "no block has 0 bytes"),
        (["--filter=xz", "null", "xz-max-block=x"], "not a size"),
        (["--filter=zstd", "null", "zstd-max-depth=-1"], "expected a whole number from 1"),
    ],
)
def test_wrong_parameters(words: list[str], problem: str) -> None:
    done = nbdfork("-U", "-", *words, "--run", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert problem in done.stderr


def test_the_limits_of_the_xz_plugin(tmp_path: Path) -> None:
    (tmp_path / "disk.xz").write_bytes(lzma.compress(bytes(MIB)))
    done = nbdfork("-U", "-", "xz", tmp_path / "disk.xz", "maxblock=1000k", "--run", "true")
    assert done.returncode == 1
    assert "unpacks to 1048576 bytes, more than maxblock=1024000" in done.stderr
