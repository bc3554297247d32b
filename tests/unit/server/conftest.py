"""What the tests of workers are given."""

from collections.abc import Iterator

import pytest

from tests.support.worker import Place


@pytest.fixture
def place() -> Iterator[Place]:
    """A worker's place, with the supervisor's ends of all that it inherits."""
    made = Place()
    yield made
    made.close()
