"""The package as it is installed from a wheel; the tests themselves run from an editable one."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.harness import output
from tests.support.paths import ROOT

_MADE = (".*", "build", "__pycache__", "*.egg-info", "*.so")
"""What is not copied: setuptools would take stale files for those of the tree."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "source"  # setuptools leaves its traces where it builds
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_MADE))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        str(directory),
        str(copy),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not os.environ.get("NBDFORK_CI"):
        pytest.skip(f"pip cannot build a wheel here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("*.whl")
    return built


def installed_files() -> set[str]:
    """Return the files of the tree that belong into the wheel, by their names there."""
    found = set()
    for directory, prefix in (("nbdfork", ""), ("plugins", "nbdfork/")):
        for path in (ROOT / directory).rglob("*"):
            is_made = "__pycache__" in path.parts or path.suffix == ".so"
            if path.is_file() and not is_made and path.suffix != ".c":
                found.add(f"{prefix}{path.relative_to(ROOT)}")
    return found


def test_the_wheel_has_the_files_of_the_tree_and_no_others(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    parts = {name for name in names if name.startswith("nbdfork/")}
    assert parts == installed_files() | {"nbdfork/plugins/c/_native.abi3.so"}
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"nbdfork"}


def test_the_wheel_has_the_manual(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for page in (ROOT / "man").iterdir():
        assert any(name.endswith(f"/share/man/man{page.suffix[1:]}/{page.name}") for name in names)


def test_the_wheel_finds_its_plugins(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "nbdfork"]
    text = output(*command, "--dump-plugin", "memory", cwd=tmp_path, env=environment)
    assert f"path={tmp_path}/nbdfork/plugins/memory.py" in text
    text = output(*command, "-U", "-", "null", "--run", "echo ok", cwd=tmp_path, env=environment)
    assert text == "ok\n"
