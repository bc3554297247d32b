"""The package as it is installed; the tests themselves run from an editable one.

One run of the build makes the source distribution, and of that the wheel, as a release does.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.support.harness import need_modules, output
from tests.support.paths import PACKAGING, ROOT

DEVELOPERS = {"site", "test", "unit"}
"""Extras that are not for users."""

UNPUBLISHED = (".ci/", ".gitattributes", ".gitignore", ".pre-commit-config.yaml")
"""Files of the repository alone."""

_MADE = (".[!c]*", ".ci", ".clients", ".coverage*", "build", "__pycache__", "*.egg-info", "*.so")
"""What is not copied: setuptools would take stale files for those of the tree."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with a wheel and a source distribution."""
    directory = tmp_path_factory.mktemp("dist")
    copy = directory / "source"  # setuptools leaves its traces where it builds
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_MADE))
    need_modules("build", "twine")
    command = [sys.executable, "-m", "build", "--outdir", str(directory), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not os.environ.get("NBDFORK_CI"):
        pytest.skip(f"nothing can be built here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return directory


MODULES = {"nbdfork/plugins/c/_native.abi3.so", "nbdfork/speedups/_native.abi3.so"}


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(archive.read(name))


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
    assert parts == installed_files() | MODULES
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


def test_what_is_published_is_accepted_by_the_index(built: Path) -> None:
    files = [path for path in built.iterdir() if path.is_file()]
    assert len(files) == 2
    output(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files)


def test_the_links_of_the_description_lead_somewhere_from_anywhere(metadata: Message) -> None:
    """It is shown where the files beside README.md are not."""
    text = metadata.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_metadata_has_urls_and_the_extra_that_has_all_others(metadata: Message) -> None:
    urls = dict(value.split(", ", 1) for value in metadata.get_all("Project-URL", []))
    assert urls
    assert all(url.startswith("https://") for url in urls.values())
    extras = set(metadata.get_all("Provides-Extra", []))
    (everything,) = [
        re.findall(r"[\w-]+", line.partition("[")[2].partition("]")[0])
        for line in metadata.get_all("Requires-Dist", [])
        if line.endswith(' extra == "all"')
    ]
    assert {"all", *everything, *DEVELOPERS} == extras


def test_the_source_distribution_has_what_belongs_to_the_source(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = output("git", "-C", ROOT, "ls-files").splitlines()
    missing = {name for name in listed if name not in names and not name.startswith(UNPUBLISHED)}
    assert missing == set()


def test_the_files_for_a_service_are_installed(wheel: Path, tmp_path: Path) -> None:
    """By pip, below share of a virtual environment, where --dump-config says."""
    output(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    output(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    share = tmp_path / "venv" / "share"
    places = {path: share / "nbdfork" / path.name for path in PACKAGING.iterdir()}
    completion = PACKAGING / "bash-completion"
    del places[completion]
    places[completion / "nbdfork"] = share / completion.name / "completions" / "nbdfork"
    for path, place in places.items():
        assert place.read_bytes() == path.read_bytes()
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if "packages" in path)}
    text = output(python, "-P", "-m", "nbdfork", "--dump-config", env=environment)
    assert f"datadir={share}/nbdfork\n" in text
