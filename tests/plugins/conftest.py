"""What the tests of several plugins are given."""

from pathlib import Path

import pytest

from tests.support.c_plugins import Build, builder
from tests.support.plugins import Sides


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds plugins in C."""
    return builder(tmp_path)
