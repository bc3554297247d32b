"""An export on a file descriptor."""

import os
from pathlib import Path

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.plugin import (
    HOLE,
    ZERO,
)
from nbdfork.plugin.descriptor import DescriptorExport


def test_extents_of_a_file(tmp_path: Path) -> None:
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


def test_zeroing_writes_nothing_where_there_is_nothing_left_to_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 65536)
    os.pwrite(fd, b"x" * 65536, 0)
    export = DescriptorExport(fd, writable=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pytest.fail)
        export.zero(10_000, 1_000, 0)
    assert os.pread(fd, 65536, 0) == b"x" * 1_000 + bytes(10_000) + b"x" * 54_536
    export.close()
