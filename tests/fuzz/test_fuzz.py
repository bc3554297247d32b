"""What has broken a parser once does not do so again, and a short look finds nothing new."""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS
from tests.support.compressed import need_libraries
from tests.support.paths import ROOT

SECONDS = 1
"""How long to look in each target."""


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_corpus_breaks_nothing(name: str) -> None:
    need_libraries("gzip", "xz", "zstd", "lz4")
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_short_look_finds_nothing_that_breaks_it(name: str, tmp_path: Path) -> None:
    has_none = sys.version_info >= (3, 14) or platform.machine() != "x86_64"  # see pyproject.toml
    if importlib.util.find_spec("atheris") is None and (
        has_none or not os.environ.get("NBDFORK_CI")
    ):
        pytest.skip("atheris, which looks for input that breaks a parser, is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, str(SECONDS), str(tmp_path), "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "stat::number_of_executed_units" in done.stderr


def test_every_target_says_what_holds_and_the_corpus_is_small() -> None:
    assert all(target.__doc__ for target in TARGETS.values())
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200 * 1024
