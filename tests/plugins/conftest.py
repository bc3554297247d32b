"""What the tests of several plugins are given."""

from pathlib import Path

import pytest

from tests.support.plugins import Sides


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)
