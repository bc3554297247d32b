"""A mapped file: only what is in memory is looked at."""

import os
from pathlib import Path

from nbdfork.plugin.descriptor import DescriptorExport
from nbdfork.plugin.mapping import Mapping

MIB = 1 << 20


def test_what_is_in_memory_can_be_viewed(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    path = tmp_path / "disk"
    path.write_bytes(data)
    with path.open("rb") as file:
        mapping = Mapping(file.fileno(), MIB)
        for offset, count in ((0, MIB), (1, MIB - 1), (4095, 100_000), (MIB - 70_000, 70_000)):
            view = mapping.resident(count, offset)
            assert view is not None
            assert view.readonly
            assert view == data[offset : offset + count]


def test_what_is_not_in_memory_is_read() -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, MIB)
    os.pwrite(fd, bytes(65536), 0)
    export = DescriptorExport(fd, writable=True)
    assert export.view(65536, 0) is not None
    assert export.view(65537, 0) is None
    assert export.view(65536, 512 * 1024) is None
    assert export.pread(65536, 512 * 1024) == bytes(65536)
    assert os.fstat(fd).st_blocks * 512 == 65536  # reading has filled no hole
    export.close()


def test_what_was_cut_off_is_not_viewed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    export = DescriptorExport(os.open(path, os.O_RDONLY), writable=False)
    assert export.view(MIB, 0) is not None
    os.truncate(path, 512 * 1024)
    assert export.view(MIB, 0) is None
    assert export.view(65536, 900_000) is None
    assert export.view(65536, 0) is not None
    export.close()


def test_an_empty_file_has_nothing_to_map(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    with path.open("rb") as file:
        assert Mapping(file.fileno(), 0).resident(65536, 0) is None
