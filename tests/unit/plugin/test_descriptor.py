"""An export on a file descriptor."""

import os
from pathlib import Path

from nbdfork.backend.gate import Gate
from nbdfork.plugin import (
    HOLE,
    ZERO,
)


def test_extents_of_a_file(tmp_path: Path) -> None:
    from nbdfork.plugin.descriptor import DescriptorExport

    fd = os.memfd_create("test")
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"x" * 4096, 65536)
    gate = Gate(DescriptorExport(fd, writable=True), False)
    hole = HOLE | ZERO
    assert gate.extents(1 << 20, 0, 0) == [
        (0, 65536, hole),
        (65536, 4096, 0),
        (69632, (1 << 20) - 69632, hole),
    ]
    assert gate.extents(10, 65536, 0) == [(65536, 10, 0)]
    gate.close()
