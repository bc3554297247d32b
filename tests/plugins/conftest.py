"""What the tests of several plugins are given."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.c_plugins import Build, builder
from tests.support.nginx import Nginx
from tests.support.plugins import Sides


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds plugins in C."""
    return builder(tmp_path)


@pytest.fixture(scope="module")
def web() -> Iterator[Nginx]:
    """A web server for the tests of one file."""
    with Nginx() as web:
        yield web


@pytest.fixture
def no_keys_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the s3 plugin find no keys but those that the test gives it."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # do not wait for a cloud to answer
