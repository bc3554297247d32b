"""The noextents filter: all is data."""

from nbdfork.plugin import (
    HOLE,
    ZERO,
    Extent,
)
from tests.support.disks import SIZE, Disk, gate


def test_noextents_lets_all_be_data() -> None:
    disk = Disk(bytes(SIZE))
    assert gate(disk, "").extents(SIZE, 0, 0) == [Extent(0, SIZE, HOLE | ZERO)]
    top = gate(disk, "noextents")
    assert not top.can_extents
    assert top.extents(SIZE, 0, 0) == [Extent(0, SIZE, 0)]
