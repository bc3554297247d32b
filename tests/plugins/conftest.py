"""What the tests of several plugins are given."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import nbd
from tests.support.c_plugins import Build, builder
from tests.support.libnbd import libnbd
from tests.support.nginx import Nginx
from tests.support.plugins import Sides
from tests.support.s3_server import S3Server
from tests.support.scripting import Language
from tests.support.sshd import Sshd
from tests.support.vddk import StandIn, clean


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds plugins in C."""
    return builder(tmp_path)


@pytest.fixture
def needed(language: Language) -> None:
    """What the plugin needs for the *language* of the test's script."""
    language.need()


@pytest.fixture(scope="module")
def compiled_vddk(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    stand_in = StandIn(tmp_path_factory.mktemp("vddk"))
    stand_in.compile(8)
    return stand_in


@pytest.fixture
def stand_in(compiled_vddk: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """What stands for VMware's library."""
    return clean(compiled_vddk, monkeypatch)


@pytest.fixture(scope="module")
def web() -> Iterator[Nginx]:
    """A web server for the tests of one file."""
    with Nginx() as web:
        yield web


@pytest.fixture(scope="module")
def host() -> Iterator[Sshd]:
    """A host that can be reached by ssh, for the tests of one file."""
    with Sshd() as host:
        yield host


@pytest.fixture(scope="module")
def store() -> Iterator[S3Server]:
    """An object store for the tests of one file."""
    with S3Server() as store:
        yield store


@pytest.fixture
def needs_libnbd() -> None:
    libnbd()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, for sockets of NBD servers, and their disk.img."""
    with tempfile.TemporaryDirectory(prefix="nbdfork-far") as name:
        (Path(name) / "disk.img").write_bytes(nbd.CONTENT)
        yield Path(name)


@pytest.fixture
def no_keys_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the s3 plugin find no keys but those that the test gives it."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # do not wait for a cloud to answer
