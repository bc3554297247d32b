"""The plugins that unpack a file, gzip and xz: what both of them say of one that they cannot."""

import os
from pathlib import Path

import pytest

from tests.support.compressed import compressed, need_libraries
from tests.support.harness import Server, nbdfork
from tests.support.libnbd import connected

NAMES = ["gzip", "xz"]


def refusal(*words: str | Path) -> str:
    done = nbdfork("-U", "-", *words, "--run", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    return done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_compressed_is_refused(name: str, tmp_path: Path) -> None:
    need_libraries(name)
    (tmp_path / "disk").write_bytes(b"plain text" * 100)
    said = refusal(name, tmp_path / "disk")
    assert said.startswith(f"nbdfork: error: {name}: {tmp_path}/disk: th")
    assert f"not {name} data" in said


@pytest.mark.parametrize("name", NAMES)
def test_the_plugin_looks_at_the_file_at_once(name: str, tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "none", "No such file"), (tmp_path, "neither a regular")):
        said = refusal(name, path)
        assert problem in said
        assert str(path) in said


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("gzip", "file=FILENAME is required"),
        ("gzip f index-size=1k", "an index takes at least 1M"),
        ("xz f maxdepth=0", "expected a whole number from 1"),
        ("xz f maxblock=0", "no block has 0 bytes"),
    ],
)
def test_wrong_parameters(words: str, problem: str) -> None:
    assert problem in refusal(*words.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"not UTF-8 \xff")
    path.write_bytes(compressed(name, b"content", name))
    with Server(name, path) as server, connected(server.uri) as client:
        assert client.pread(7, 0) == b"content"
    path.write_bytes(b"plain text")
    said = refusal(name, path)
    assert r"not UTF-8 \udcff: th" in said
