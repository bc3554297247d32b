"""What the tests of sandboxes are given."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.prison import Prison


@pytest.fixture(scope="module")
def prison() -> Iterator[Prison]:
    with ExitStack() as stack:
        yield Prison(stack)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user that has nothing to do with the server."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()
