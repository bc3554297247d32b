"""The filters that know of parts of a disk: protect, extentlist, map and ddrescue."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdfork.plugin import HOLE, ZERO, ConfigError, Extent
from tests.support.beside import both, compare, random_script
from tests.support.disks import BLOCK, KIB, SIZE, Disk, ZeroingDisk, gate
from tests.support.harness import output, refused
from tests.support.model import carry_out, requests
from tests.support.noise import noise

# -- protect ----------------------------------------------------------------------------------


@pytest.mark.parametrize("minimum", [1, 512])
def test_what_is_protected_can_only_be_written_as_it_is(minimum: int) -> None:
    content = noise(2 * BLOCK) + bytes(2 * BLOCK)
    disk = ZeroingDisk(content, minimum)
    top = gate(disk, "protect", "protect=0x200-01777", f"protect={2 * BLOCK}-")
    top.pwrite(memoryview(content), 0, fua=False)
    top.pwrite(memoryview(bytes(512)), 0, fua=False)
    with refused(errno.EPERM, "protected at byte 512"):
        top.pwrite(memoryview(bytes(1024)), 0, fua=False)
    with refused(errno.EPERM):
        top.zero(BLOCK, 0, may_trim=False, fast=False, fua=False)
    with refused(errno.EPERM):
        top.trim(512, 512, fua=False)
    top.trim(2 * BLOCK, 2 * BLOCK, fua=False)  # there are zeroes already
    top.zero(BLOCK, BLOCK, may_trim=False, fast=False, fua=False)
    expected = bytes(512) + content[512:BLOCK] + bytes(3 * BLOCK)
    assert disk.content == expected


def test_all_but_a_part_can_be_protected() -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "protect", "protect=~512-1023")
    top.pwrite(memoryview(b"x" * 512), 512, fua=False)
    for offset in (511, 1023):
        with refused(errno.EPERM):
            top.pwrite(memoryview(b"xy"), offset, fua=False)


@pytest.mark.parametrize("ranges", [["0-0x1bd"], ["~1000-20000"], ["100-200", "30000-35000"]])
def test_protect_as_nbdkit_does_it(ranges: list[str], tmp_path: Path) -> None:
    arguments = ["--filter=protect", *(f"protect={part}" for part in ranges)]
    content = (noise(10000) + bytes(10000)) * 3
    found = compare(tmp_path, arguments, random_script(60000, seed=5, length=60), content)
    assert ("EPERM" in found) == (ranges != ["0-0x1bd"])


# -- extentlist -------------------------------------------------------------------------------


def test_extents_are_those_of_the_list(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("# a comment\n\n8k 4k zero\n0 4k\n0x5000 512 hole\n20992 512 3\n")
    top = gate(Disk(noise(SIZE)), "extentlist", f"extentlist={listed}")
    assert top.extents(SIZE, 0, 0) == [
        Extent(0, 4096, 0),
        Extent(4096, 4096, HOLE | ZERO),
        Extent(8192, 4096, ZERO),
        Extent(12288, 8192, HOLE | ZERO),
        Extent(20480, 512, HOLE),
        Extent(20992, SIZE - 20992, HOLE | ZERO),
    ]
    assert top.extents(100, 5000, 0) == [Extent(5000, 100, HOLE | ZERO)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 4k\n1k 1k\n", "overlap at byte 1024"),
        ("0\n", "line 1: expected OFFSET LENGTH"),
        ("\n0 4k wholes\n", "line 2: 'wholes' is no type"),
        ("0 many\n", "line 1: not a size"),
    ],
)
def test_a_list_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text(text)
    with pytest.raises(ConfigError, match=message):
        gate(Disk(b""), "extentlist", f"extentlist={listed}")
    with pytest.raises(ConfigError, match="No such file"):
        gate(Disk(b""), "extentlist", f"extentlist={listed}x")


def test_extentlist_as_nbdkit_does_it(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("0 4k\n8k 4k zero\n16k 1k hole\n")

    def shown(uri: str) -> Any:
        return json.loads(output("nbdinfo", "--json", "--map", uri))

    arguments = ("--filter=extentlist", "memory", "64k", f"extentlist={listed}")
    theirs, ours = both(tmp_path, shown, *arguments)
    assert ours == theirs


# -- map --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(script=st.lists(requests(6 * BLOCK), max_size=20), zeroing=st.booleans())
def test_map_moves_parts(script: list[tuple[str, int, int, int]], zeroing: bool) -> None:
    content = noise(6 * BLOCK)
    disk = (ZeroingDisk if zeroing else Disk)(content)
    first, second = f"map=0-{BLOCK - 1}:{2 * BLOCK}", f"map={2 * BLOCK}-{3 * BLOCK - 1}:0"
    top = gate(disk, "map", first, second)
    blocks = [content[place : place + BLOCK] for place in range(0, len(content), BLOCK)]
    blocks[0], blocks[2] = blocks[2], blocks[0]
    model = bytearray(b"".join(blocks))
    for request in script:
        carry_out(top, model, request)
    found = [bytes(disk.content[place : place + BLOCK]) for place in range(0, len(content), BLOCK)]
    found[0], found[2] = found[2], found[0]
    assert b"".join(found) == model


def test_the_first_of_two_mappings_counts_and_the_end_is_the_end() -> None:
    content = noise(SIZE)
    top = gate(Disk(content), "map", "map=0-9:100", "map=5-14:200", "map-size=64k")
    assert top.pread(20, 0) == content[100:110] + content[205:210] + content[15:20]
    assert top.size == 64 * KIB
    with refused(errno.EIO, "past the end"):
        top.pread(10, SIZE - 5)
    with refused(errno.EINVAL, "multiples of 512"):
        gate(Disk(bytes(4096), 512), "map", "map=0-99:512")


# -- ddrescue ---------------------------------------------------------------------------------

MAPFILE = """# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue /dev/sdb disk map
# current_pos  current_status  current_pass
0x00001000     +               1
#      pos        size  status
0x00000000  0x00001000  +
0x00001000  0x00000200  -
0x00001200  0x00002E00  +
0x00004000  0x00001000  *
0x00005000  0x00000400  +
0x00005400  0x00000400  +
"""


def test_what_was_not_rescued_cannot_be_read(tmp_path: Path) -> None:
    mapfile = tmp_path / "map"
    mapfile.write_text(MAPFILE)
    arguments = ["--filter=ddrescue", f"ddrescue-mapfile={mapfile}"]
    script = [
        ("pread", 0x1000, 0),
        ("pread", 0x1001, 0),
        ("pread", 512, 0x1000),
        ("pread", 0x2E00, 0x1200),
        ("pread", 512, 0x4000),
        ("pread", 0x300, 0x5100),
        ("get_size",),
    ]
    found = compare(tmp_path, arguments, script, noise(0x6000))
    assert [word for word in found if isinstance(word, str)] == ["EIO", "EIO", "EIO"]
    top = gate(Disk(noise(0x6000)), "ddrescue", f"ddrescue-mapfile={mapfile}")
    assert top.pread(0x700, 0x5100) == noise(0x6000)[0x5100:0x5800]  # two lines, one range


def test_a_map_that_is_wrong(tmp_path: Path) -> None:
    mapfile = tmp_path / "map"
    mapfile.write_text("0x0 + 1\n0x0 0x200 good\n")
    with pytest.raises(ConfigError, match="line 2: expected POSITION SIZE STATUS"):
        gate(Disk(b""), "ddrescue", f"ddrescue-mapfile={mapfile}")
