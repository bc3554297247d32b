"""The partitioning plugin: the tables are those of nbdkit, to the byte, and satisfy their tools."""

import errno
import os
import re
import struct
import zlib
from pathlib import Path

import pytest

from nbdfork.backend.load import find
from nbdfork.plugin import (
    FUA,
    HOLE,
    ZERO,
)
from tests.support.harness import need, output
from tests.support.plugins import MIB, Sides, content, file_of, opened, plugin, refusal


@pytest.fixture
def partitions(tmp_path: Path) -> list[Path]:
    return [file_of(tmp_path / f"p{n}", n * 70_000 + n * 3) for n in range(1, 8)]


@pytest.mark.parametrize(
    "arguments",
    [
        "1",
        "1 2 3 4",
        "1 alignment=512 2 mbr-id=0x82 3 mbr-id=default 4",
        "mbr-id=7 1 2",
        "partition-type=mbr 1 2 3 4 5",
        "partition-type=mbr alignment=8k 1 2 3 4 5 6 7",
        "alignment=512 partition-type=mbr 1 2 3 4 mbr-id=0x0c alignment=1M 5 6 7",
        "1 1",
    ],
)
def test_mbr(sides: Sides, partitions: list[Path], arguments: str) -> None:
    """The table is the same as nbdkit's, to the byte."""
    words = [partitions[int(w) - 1] if w.isdigit() else w for w in arguments.split()]
    theirs, ours = sides.images("partitioning", *words)
    assert ours == theirs


def without_guids(image: bytes) -> bytes:
    """Blank what differs in a GPT: GUIDs, which are random, and checksums with them."""
    blank = bytearray(image)
    for header in (512, len(image) - 512):
        assert blank[header : header + 8] == b"EFI PART"
        first, slots = struct.unpack_from("<QI", blank, header + 72)
        crc, entries_crc = struct.unpack_from("<16xI68xI", blank, header)[:2]
        entries = image[first * 512 : first * 512 + slots * 128]
        assert zlib.crc32(entries) == entries_crc
        unsigned = blank[header : header + 16] + bytes(4) + blank[header + 20 : header + 96]
        assert zlib.crc32(unsigned) == crc
        for start, size in ((16, 4), (56, 16), (88, 4)):
            blank[header + start : header + start + size] = bytes(size)
        for entry in range(first * 512, first * 512 + slots * 128, 128):
            blank[entry + 16 : entry + 32] = bytes(16)
    return bytes(blank)


@pytest.mark.parametrize(
    "arguments",
    [
        "1 2 3 4 5",
        "partition-type=gpt 1",
        "partition-type=gpt alignment=4k 1 2 type-guid=C12A7328-F81F-11D2-BA4B-00A0C93EC93B 3"
        " type-guid=default 4",
    ],
)
def test_gpt(sides: Sides, partitions: list[Path], arguments: str) -> None:
    words = [partitions[int(w) - 1].name if w.isdigit() else w for w in arguments.split()]
    theirs, ours = sides.images("partitioning", *words, cwd=partitions[0].parent)
    assert without_guids(ours) == without_guids(theirs)


def test_gpt_with_many_partitions(sides: Sides, tmp_path: Path) -> None:
    names = [file_of(tmp_path / f"many{n}", 600).name for n in range(130)]
    theirs, ours = sides.images("partitioning", "alignment=512", *names, cwd=tmp_path)
    assert without_guids(ours) == without_guids(theirs)


def test_gpt_is_always_the_same(partitions: list[Path]) -> None:
    images = [
        content(opened("partitioning", "partition-type=gpt", *partitions[:3])) for _ in range(2)
    ]
    assert images[0] == images[1]
    assert images[0] != content(opened("partitioning", "partition-type=gpt", *partitions[1:4]))


def test_gpt_satisfies_its_tools(partitions: list[Path], tmp_path: Path) -> None:
    need("sfdisk", "sgdisk")
    image = tmp_path / "image"
    image.write_bytes(content(opened("partitioning", *partitions)))
    assert "No problems found" in output("sgdisk", "-v", image)
    listed = output("sfdisk", "-d", image)
    assert re.findall(r'name="(\w+)"', listed) == [path.name for path in partitions]


def test_partitions_can_be_written_and_the_table_cannot(partitions: list[Path]) -> None:
    export = opened("partitioning", *partitions[:2])
    table = export.pread(512, 0)
    export.pwrite(memoryview(table), 0, 0)  # nothing is changed
    export.pwrite(memoryview(b"new"), MIB, FUA)
    export.pwrite(memoryview(bytes(512)), MIB // 2, 0)
    export.zero(MIB // 2, 512, 0)
    export.trim(MIB, 0, 0)
    for data, offset in ((b"x", 0), (b"x", 512), (b"x" * 513, MIB - 1), (bytes(512), 0)):
        with pytest.raises(OSError) as caught:
            export.pwrite(memoryview(data), offset, 0)
        assert caught.value.errno == errno.EIO
    with pytest.raises(OSError):
        export.zero(512, 0, 0)
    assert [extent.type for extent in export.extents(MIB, 0, 0)] == [0, HOLE | ZERO]
    export.flush()
    export.close()
    assert partitions[0].read_bytes()[:3] == b"new"
    assert partitions[0].stat().st_size == 70_003


def test_partitioning_as_a_program_may_set_it_up(partitions: list[Path]) -> None:
    made = find("partitioning").plugin_class(file=tuple(map(str, partitions[:2])), mbr_id="0x82")
    made.config_complete()
    made.get_ready()
    export = made.open("", True)
    assert export.pread(512, 0)[450] == 0x82
    export.close()


def test_partitioning_refuses(tmp_path: Path, partitions: list[Path]) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 3 << 40)
    first = partitions[0]
    assert "is empty" in refusal("partitioning", tmp_path / "empty")
    assert "use partition-type=gpt" in refusal(
        "partitioning", "partition-type=mbr", tmp_path / "huge"
    )
    for value in ("100", "1000", "0", "1536", "2M"):
        assert "power of 2" in refusal("partitioning", f"alignment={value}", first)
    for value in ("256", "0x", "x", "-1"):
        assert "expected a byte" in refusal("partitioning", f"mbr-id={value}", first)
    assert "expected a GUID" in refusal("partitioning", "type-guid=x", first)
    os.truncate(tmp_path / "empty", (2**32 - 10240 - 4000) * 512)
    for most in ([tmp_path / "empty", *partitions], [*partitions, tmp_path / "empty"]):
        # The files would fit, but not with the padding between them.
        assert "use partition-type=gpt" in refusal("partitioning", "partition-type=mbr", *most)
    huge = opened("partitioning", tmp_path / "huge", read_only=True)
    assert huge.pread(8, 512) == b"EFI PART"
    huge.close()


def test_a_partition_must_keep_its_size(partitions: list[Path]) -> None:
    made = plugin("partitioning", *partitions)
    with partitions[4].open("ab") as file:
        file.write(b"more")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="another size"):
        made.open("", False)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_partition_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"not UTF-8 \xff\n\x1b")
    path.write_bytes(b"content")
    for kind in ("mbr", "gpt"):
        disk = opened("partitioning", f"partition-type={kind}", path, read_only=True)
        assert disk.pread(7, MIB) == b"content"
        if kind == "gpt":
            assert bytes(disk.pread(26, 1024 + 56)).decode("utf-16-le") == "not UTF-8 ?\n\x1b"
        disk.close()
