"""What plugins share that serve files or put a disk together: parts in a row, and opening files."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbdfork.plugins._parts import files
from nbdfork.plugins._parts.concatenation import Concatenation
from nbdfork.plugins._parts.fixed import Fixed

from nbdfork.plugin import HOLE, REQ_ONE, ZERO, ConfigError, Export, Extent, LostWrites, Support


class Ram(Export):
    """A part that can be written."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.calls: list[str] = []
        self.writable = True

    def get_size(self) -> int:
        return len(self.content)

    def can_write(self) -> bool:
        return self.writable

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(self.content[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.content[offset : offset + len(data)] = data

    def zero(self, count: int, offset: int, flags: int) -> None:
        self.content[offset : offset + count] = bytes(count)

    def flush(self) -> None:
        self.calls.append("flush")

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        """Tell of every 4 bytes, from the beginning of those that the range begins in."""
        for start in range(offset - offset % 4, offset + count, 4):
            is_zero = not any(self.content[start : start + 4])
            yield Extent(start, min(4, len(self.content) - start), HOLE | ZERO if is_zero else 0)

    def close(self) -> None:
        self.calls.append("close")


PARTS = st.lists(st.binary(max_size=12), min_size=1, max_size=6).filter(any)


def a_range(data: st.DataObject, size: int) -> tuple[int, int]:
    offset = data.draw(st.integers(0, size - 1))
    return data.draw(st.integers(1, size - offset)), offset


# -- parts in a row ---------------------------------------------------------------------------


@given(PARTS, st.data())
def test_a_disk_of_parts_is_their_bytes_one_after_another(
    contents: list[bytes], data: st.DataObject
) -> None:
    parts = [Ram(content) for content in contents]
    disk, model = Concatenation(parts), bytearray(b"".join(contents))
    assert disk.get_size() == len(model)
    count, offset = a_range(data, len(model))
    assert disk.pread(count, offset) == model[offset : offset + count]
    written = data.draw(st.binary(min_size=count, max_size=count))
    disk.pwrite(memoryview(written), offset, 0)
    model[offset : offset + count] = written
    assert disk.pread(len(model), 0) == model
    count, offset = a_range(data, len(model))
    disk.zero(count, offset, 0)
    model[offset : offset + count] = bytes(count)
    assert b"".join(bytes(part.content) for part in parts) == model


@given(PARTS, st.data())
def test_extents_follow_each_other_and_are_true(contents: list[bytes], data: st.DataObject) -> None:
    model = b"".join(contents)
    disk = Concatenation([Ram(content) for content in contents])
    count, offset = a_range(data, len(model))
    found = list(disk.extents(count, offset, 0))
    assert found[0].offset == offset
    for extent, following in zip(found, [*found[1:], None], strict=True):
        end = extent.offset + extent.length
        assert end == (following.offset if following else offset + count)
        if extent.type & ZERO:
            assert not any(model[extent.offset : end])
    assert list(disk.extents(count, offset, REQ_ONE)) == found[:1]


def test_the_disk_can_do_what_all_of_its_parts_can() -> None:
    one, other = Ram(b"one"), Ram(b"other")
    disk = Concatenation([one, other])
    assert disk.can_write()
    assert disk.can_fua() is Support.NATIVE
    assert not disk.can_fast_zero()  # the second part might refuse when the first is zeroed
    other.writable = False
    assert not disk.can_write()
    disk.flush()
    disk.close()
    assert one.calls == other.calls == ["flush", "close"]


# -- what was computed ------------------------------------------------------------------------


def test_what_was_computed_can_only_be_written_as_it_is() -> None:
    part: Any = Fixed(b"table" + bytes(512))
    part.pwrite(memoryview(b"abl"), 1, 0)
    part.zero(512, 5, 0)
    part.trim(3, 0, 0)
    with pytest.raises(OSError, match="is computed, and cannot be changed") as caught:
        part.pwrite(memoryview(b"x"), 0, 0)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="is computed, and cannot be changed"):
        part.zero(1, 0, 0)
    assert part.pread(5, 0) == b"table"
    assert list(part.extents(5, 0, 0)) == [Extent(0, 5, 0)]
    assert list(part.extents(512, 5, 0)) == [Extent(5, 512, HOLE | ZERO)]


# -- files ------------------------------------------------------------------------------------


def test_what_can_be_served_is_a_file_or_a_block_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    files.check_servable("name", str(tmp_path / "file"))
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ConfigError) as caught:
            files.check_servable("name", str(path))
        assert str(caught.value) == f"name: {path} is neither a regular file nor a block device"
        with pytest.raises(OSError, match="is neither a regular file") as raised:
            files.demand_servable(str(path), errno.ENOENT)
        assert raised.value.errno == errno.ENOENT
    with pytest.raises(ConfigError, match="none: No such file or directory"):
        files.check_servable("name", str(tmp_path / "none"))
    assert files.is_servable(stat.S_IFBLK)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY])
def test_a_file_that_can_only_be_read_is_opened_read_only(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everything, so the system refuses here by proxy."""
    path = tmp_path / "disk"
    path.write_bytes(b"data")
    really_open = os.open

    def refuse(name: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(error, os.strerror(error))
        return really_open(name, flags)

    disk = files.open_disk(str(path), False, LostWrites())
    assert disk.can_write()
    disk.close()
    monkeypatch.setattr(os, "open", refuse)
    disk = files.open_disk(str(path), False, LostWrites())
    assert not disk.can_write()
    assert bytes(disk.pread(4, 0)) == b"data"
    disk.close()
    with pytest.raises(OSError, match=os.strerror(error)):
        files.open_part(str(path), False, LostWrites())  # all parts of a disk are to be writable
    files.open_part(str(path), True, LostWrites()).close()


def test_another_error_of_opening_is_no_reason_to_try_it_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    path.touch()

    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        files.open_disk(str(path), False, LostWrites())
