"""Extents as an export gives them, and as clients may rely on them."""

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.plugin import (
    HOLE,
    REQ_ONE,
    ZERO,
)
from tests.support.exports import Filling, Mapped


def test_extents_are_clipped_and_merged() -> None:
    gate = Gate(
        Mapped((0, 1024, 0), (1024, 512, HOLE), (1536, 512, HOLE), (2048, 9999, ZERO)), True
    )
    assert gate.extents(3000, 100, 0) == [(100, 924, 0), (1024, 1024, HOLE), (2048, 1052, ZERO)]
    assert gate.extents(2000, 1100, REQ_ONE) == [(1100, 948, HOLE)]


def test_extents_stop_at_a_gap() -> None:
    gate = Gate(Mapped((0, 512, 0), (1024, 512, HOLE)), True)
    assert gate.extents(4096, 0, 0) == [(0, 512, 0)]
    with pytest.raises(OSError, match="no extent that holds 600"):
        gate.extents(100, 600, 0)


def test_without_extents_all_is_data() -> None:
    assert Gate(Filling(), True).extents(4096, 0, 0) == [(0, 4096, 0)]
