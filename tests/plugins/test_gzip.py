"""The gzip plugin: the filter of this name over a file."""

from pathlib import Path

import pytest

from tests.support.compressed import need_libraries
from tests.support.harness import Server, nbdfork, run


def test_what_is_not_compressed_is_refused(tmp_path: Path) -> None:
    need_libraries("gzip")
    (tmp_path / "disk").write_bytes(b"plain text" * 100)
    done = nbdfork("-U", "-", "gzip", tmp_path / "disk", "--run", "true")
    assert done.returncode == 1
    assert done.stderr.startswith(f"nbdfork: error: gzip: {tmp_path}/disk: th")
    assert "not gzip data" in done.stderr
    with Server("--filter=gzip", "memory", "1M") as server:
        assert run("nbdinfo", server.uri).returncode != 0
        assert "the disk below: this is not gzip data" in server.log


def test_the_plugin_looks_at_the_file_at_once(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "none", "No such file"), (tmp_path, "neither a regular")):
        done = nbdfork("-U", "-", "gzip", path, "--run", "true")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert problem in done.stderr
        assert str(path) in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["gzip"], "file=FILENAME is required"),
        (["gzip", "f", "index-size=1k"], "an index takes at least 1M"),
    ],
)
def test_wrong_parameters(words: list[str], problem: str) -> None:
    done = nbdfork("-U", "-", *words, "--run", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert problem in done.stderr
