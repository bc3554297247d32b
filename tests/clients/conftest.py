"""What the tests of several files of clients are given."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import Server, need, output
from tests.support.tls import Certificates
from tests.support.ways import WAYS, Way


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    chosen = request.param
    assert isinstance(chosen, Way)
    return chosen


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of pre-shared keys: keys.psk of alice and bob, and wrong.psk."""
    need("psktool")
    place = tmp_path_factory.mktemp("keys")
    for name, file in (("alice", "keys.psk"), ("bob", "keys.psk"), ("alice", "wrong.psk")):
        output("psktool", "-u", name, "-p", place / file)
    return place


@pytest.fixture(scope="module")
def demanding(certificates: Certificates) -> Iterator[Server]:
    """A server that wants TLS of everybody."""
    with Server(
        "--tls=require", f"--tls-certificates={certificates.server}", "memory", "64M"
    ) as on:
        yield on
