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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "source"  # setuptools leaves its traces where it builds
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "__pycache__", "*.so"))
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


def test_the_wheel_has_all(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for directory, prefix in (("nbdfork", ""), ("plugins", "nbdfork/")):
        for path in (ROOT / directory).rglob("*.*"):
            if path.suffix in (".py", ".pyi", ".pl", ".ml", ".mli", ".h", ".pc"):
                assert prefix + str(path.relative_to(ROOT)) in names
    assert "nbdfork/plugins/c/_native.abi3.so" in names
    for page in (ROOT / "man").iterdir():
        assert any(name.endswith(f"/share/man/man{page.suffix[1:]}/{page.name}") for name in names)
    assert "nbdfork/py.typed" in names
    assert not any("tests/" in name for name in names)


def test_the_wheel_finds_its_plugins(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "nbdfork"]
    text = output(*command, "--dump-plugin", "memory", cwd=tmp_path, env=environment)
    assert f"path={tmp_path}/nbdfork/plugins/memory.py" in text
    text = output(*command, "-U", "-", "null", "--run", "echo ok", cwd=tmp_path, env=environment)
    assert text == "ok\n"
