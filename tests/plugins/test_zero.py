"""The zero plugin: an empty disk."""

from tests.support.plugins import Sides


def test_zero(sides: Sides) -> None:
    assert sides.images("zero") == (b"", b"")
    theirs, ours = sides.facts("zero")
    for key in ("export-size", "is_read_only", "can_multi_conn"):
        assert theirs[key] == ours[key], key
