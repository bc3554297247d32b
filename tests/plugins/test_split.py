"""The split plugin: files one after the other."""

import os
from pathlib import Path

import pytest

from nbdfork.plugin import FUA, HOLE, MAY_TRIM, REQ_ONE, ZERO
from tests.support.plugins import MIB, Sides, content, file_of, opened, plugin, refusal


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Files of odd sizes, one of them empty."""
    return [file_of(tmp_path / f"part{n}", n * 70_000 + n) for n in (1, 2, 0, 3)]


def test_split(sides: Sides, parts: list[Path]) -> None:
    theirs, ours = sides.images("split", *parts)
    assert ours == theirs == b"".join(part.read_bytes() for part in parts)


def test_split_reads_and_writes_across_files(parts: list[Path]) -> None:
    export = opened("split", *parts)
    expected = bytearray(b"".join(part.read_bytes() for part in parts))
    boundary = 70_001
    export.pwrite(memoryview(b"across"), boundary - 3, 0)
    expected[boundary - 3 : boundary + 3] = b"across"
    export.pwrite(memoryview(b"y" * 200_000), 60_000, FUA)
    expected[60_000:260_000] = b"y" * 200_000
    export.zero(150_000, 65_000, MAY_TRIM)
    expected[65_000:215_000] = bytes(150_000)
    export.trim(1, 0, 0)
    export.cache(1000, boundary - 500)
    export.flush()
    assert content(export)[1:] == expected[1:]
    assert export.pread(2, 259_999) == expected[259_999:260_001]
    export.close()
    assert b"".join(part.read_bytes() for part in parts)[1:] == expected[1:]


def test_split_has_holes(tmp_path: Path) -> None:
    paths = [tmp_path / "hole", file_of(tmp_path / "data", MIB), tmp_path / "other"]
    for path in (paths[0], paths[2]):
        path.touch()
        os.truncate(path, MIB)
    export = opened("split", *paths)
    hole = HOLE | ZERO
    expected = [(4096, MIB - 4096, hole), (MIB, MIB, 0), (2 * MIB, 4096, hole)]
    assert list(export.extents(2 * MIB, 4096, 0)) == expected
    assert list(export.extents(2 * MIB, 4096, REQ_ONE)) == expected[:1]
    export.close()


def test_split_that_cannot(tmp_path: Path, parts: list[Path]) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("split", "partitioning"):
        assert "missing: No such file" in refusal(name, parts[0], tmp_path / "missing")
        for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
            message = f"{path} is neither a regular file nor a block device"
            assert message in refusal(name, parts[0], path)
        assert "required" in refusal(name)
    export = opened("split", *parts, read_only=True)
    assert not export.can_write()
    export.close()
    made = plugin("split", *parts)
    parts[3].unlink()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        made.open("", False)
    assert len(os.listdir("/proc/self/fd")) == before
    os.mkfifo(parts[3])  # for which a client must not wait
    with pytest.raises(OSError, match="neither a regular file nor a block device"):
        made.open("", True)
