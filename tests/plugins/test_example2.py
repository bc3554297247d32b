"""The second example: a file with debug flags."""

import os
from pathlib import Path

import pytest

from tests.support.harness import Server, need, output
from tests.support.plugins import Sides, file_of, plugin, refusal


def test_example2(tmp_path: Path, sides: Sides) -> None:
    disk = file_of(tmp_path / "disk", 100_001)
    theirs, ours = sides.images("example2", f"file={disk}")
    assert ours == theirs == disk.read_bytes()
    _, facts = sides.facts("example2", f"file={disk}")
    assert facts["is_read_only"]


def test_example2_says_when_it_opens(tmp_path: Path) -> None:
    need("nbdinfo")
    disk = file_of(tmp_path / "disk", 512)
    with Server("-v", "-D", "example2.extra=1", "example2", f"file={disk}") as server:
        output("nbdinfo", "--size", server.uri)
        assert f"extra: opened {disk}" in server.log


def test_example2_without_its_file(tmp_path: Path) -> None:
    assert "there is no regular file" in refusal("example2", f"file={tmp_path}")
    disk = file_of(tmp_path / "disk", 512)
    made = plugin("example2", f"file={disk}")
    export = made.open("", False)
    os.truncate(disk, 100)
    with pytest.raises(OSError, match="shorter"):
        export.pread(512, 0)
    export.close()
    disk.unlink()
    with pytest.raises(FileNotFoundError):
        made.open("", False)
