"""Plugins for testing clients and for making disks, side by side with those of nbdkit."""

import errno
import json
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbdfork.plugins import iso

from nbdfork.backend.backend import Backend, Layer
from nbdfork.backend.load import find
from nbdfork.plugin import FUA, HOLE, MAY_TRIM, REQ_ONE, ZERO, ConfigError, Export, Plugin
from tests.support.harness import NBDFORK, Server, need, output, run

MIB = 1 << 20


def plugin(name: str, *arguments: str | Path) -> Plugin:
    made = find(name).plugin_class()
    backend = Backend(Layer(name, made))
    backend.configure(map(str, arguments))
    backend.get_ready()
    return made


def opened(name: str, *arguments: str | Path, read_only: bool = False) -> Export:
    return plugin(name, *arguments).open("", read_only)


def content(export: Export) -> bytes:
    return bytes(export.pread(export.get_size(), 0)) if export.get_size() else b""


def refusal(name: str, *arguments: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        plugin(name, *arguments)
    return str(caught.value)


def file_of(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


class Sides:
    """The same plugin served by nbdkit and by nbdfork."""

    def __init__(self, directory: Path) -> None:
        need("nbdkit", "nbdcopy", "nbdinfo")
        self._directory = directory

    def images(self, *arguments: str | Path, **options: object) -> tuple[bytes, bytes]:
        """Return the disk as each of the two serves it."""
        images = []
        for number, command in enumerate((["nbdkit"], NBDFORK)):
            image = self._directory / f"side{number}"
            copy = f'nbdcopy "$uri" {image}'
            output(*command, "-r", "-U", "-", *arguments, "--run", copy, **options)
            images.append(image.read_bytes())
        return images[0], images[1]

    def facts(self, *arguments: str | Path) -> tuple[dict[str, object], dict[str, object]]:
        """Return what nbdinfo says of each."""
        facts = []
        for command in (["nbdkit"], NBDFORK):
            text = output(*command, "-U", "-", *arguments, "--run", 'nbdinfo --json "$uri"')
            facts.append(json.loads(text)["exports"][0])
        return facts[0], facts[1]


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


# -- the examples -----------------------------------------------------------------------------


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


def test_example3_is_one_disk_for_all_clients() -> None:
    need("qemu-io")
    with Server("example3", "size=1M") as server:
        for command in ("write -P 7 1000 5000", "read -P 7 1000 5000", "read -P 0 0 1000", "flush"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert (done.returncode, "failed" in done.stdout) == (0, False), done
    assert plugin("example3").get_size() == 100 * MIB


def test_example3_too_large() -> None:
    assert "choose less" in refusal("example3", "size=7E")


# -- zero, full, pattern, random --------------------------------------------------------------


def test_zero(sides: Sides) -> None:
    assert sides.images("zero") == (b"", b"")
    theirs, ours = sides.facts("zero")
    for key in ("export-size", "is_read_only", "can_multi_conn"):
        assert theirs[key] == ours[key], key


def test_full(sides: Sides) -> None:
    theirs, ours = sides.images("full", "1000001")
    assert theirs == ours == bytes(1_000_001)
    their_facts, facts = sides.facts("full", "1M")
    for key in ("is_read_only", "can_flush", "can_trim", "can_fast_zero", "can_multi_conn"):
        assert their_facts[key] == facts[key], key
    export = opened("full", "1M")
    changes: list[Callable[[], object]] = [
        lambda: export.pwrite(memoryview(b"x"), 0, 0),
        lambda: export.trim(1, 0, 0),
        lambda: export.zero(1, 0, MAY_TRIM),
    ]
    for change in changes:
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.ENOSPC
    assert list(export.extents(100, 50, 0)) == [(50, 100, HOLE | ZERO)]


@pytest.mark.parametrize("command", ["write 0 512", "write -z 0 512", "discard 0 512"])
def test_full_as_a_client_sees_it(command: str) -> None:
    need("qemu-io")
    with Server("full", "1M") as server:
        done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
    assert "No space left on device" in done.stdout + done.stderr


@pytest.mark.parametrize("size", ["0", "7", "8", "1000003", "3M"])
def test_pattern(sides: Sides, size: str) -> None:
    theirs, ours = sides.images("pattern", size)
    assert ours == theirs


def test_pattern_at_any_offset() -> None:
    export = opened("pattern", str(2**63 - 1))
    whole = b"".join(struct.pack(">Q", n) for n in range(0, 64, 8))
    for start in range(20):
        for end in range(start + 1, 40):
            assert bytes(export.pread(end - start, start)) == whole[start:end]
    assert bytes(export.pread(9, 2**63 - 10)) == bytes.fromhex("fff07fffffffffffff")


def test_random_is_the_same_for_every_client_and_every_seed(tmp_path: Path) -> None:
    need("nbdcopy", "cmp")
    images = [tmp_path / name for name in "ab"]
    with Server("random", "1000003") as server:
        for image in images:
            output("nbdcopy", server.uri, image)
    assert images[0].read_bytes() == images[1].read_bytes()
    assert len(zlib.compress(images[0].read_bytes())) > 990_000
    seeded = [content(opened("random", "50000", f"seed={seed}")) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]
    export = opened("random", "50000", "seed=1")
    assert bytes(export.pread(9000, 4000)) == seeded[0][4000:13000]
    assert content(opened("random", "100", "seed=1")) == seeded[0][:100]


def test_random_is_not_changed() -> None:
    need("nbdcopy", "qemu-io")
    with Server("random", "1M") as server:
        output("nbdcopy", server.uri, server.uri)
        for command in ("write 0 512", "write -z 0 512"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert "Input/output error" in done.stdout + done.stderr


def test_random_seeds_are_checked() -> None:
    assert "whole number" in refusal("random", "1M", "seed=x")


# -- split ------------------------------------------------------------------------------------


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
            message = f"{path}: is neither a regular file nor a block device"
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
    made.open("", True).close()


# -- partitioning -----------------------------------------------------------------------------


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


# -- data -------------------------------------------------------------------------------------

SAME = [
    "",
    " ",
    "0 1 2 3 @0x1fe 0x55 0xaa",
    "0 1 2 3 @^0x200 @-2 le16:0xaa55",
    "@0x10",
    "@10 @2",
    "@10 @0 1",
    "1 2 @-1 3",
    "1 @^0x10",
    "@^8",
    "1@4 2",
    "1 2 3 @0 0",
    "@+4 1 @-3 2",
    "1 * 0x3",
    "1*010",
    "1*3*2",
    "0X10 017 0",
    "0x55*3000000",
    "0*3000000",
    '("Hello")*20000',
    '12"a"',
    '""',
    '"\\n\\t\\a\\b\\f\\r\\v\\e\\q\\?\\\'\\"\\\\é"',
    '"abc"[1:2]',
    '"abc"[1:]',
    '"abc"[:]',
    '"abc"[3:]',
    '"abc"[0:2]*3[1:]',
    "(1 2 3 4)[1:][:2]",
    "1 2 [0:1]",
    "1 2 -> \\a \\a \\a",
    "1 -> \\a",
    "1 -> \\a ( \\a 2 -> \\a \\a ) \\a",
    "(1 -> \\a \\a) -> \\b \\b \\b",
    "(1 2)->\\a-_9 \\a-_9",
    "( 0x55 0xAA ) -> \\sign ( @0x1fe \\sign ) -> \\sector \\sector \\sector",
    "<FILE",
    "<FILE[:4]",
    "<FILE[2:4]",
    "<FILE*2",
    "(<FILE)",
    "<FILE @^512 <FILE @^512",
    "<(printf hi)",
    "<( echo \"(a)\" '(' ')' )",
    "<(yes)[:5]*2",
    '<( i=0; while :; do printf "%04d" $i; i=$((i+1)); done )[:32768]',
    "be16:1 be32:2 be64:3 le32:4 le64:5",
    "be64:0xffffffffffffffff",
    "1 # comment )",
    "# only\n1 #\n2",
    "(1 (2 3)*2 4)",
    "(@4 1 @^8)*2",
    "(@4)[1:3]",
    "1 (2 @0 3) 4",
    "()",
    "(1 2)*0 @^4",
    "$v*2",
    "$w $v[1:]",
    "1 -> \\a $n",
    "$from_environment",
    "(@0x1fe 0x55 0xaa)*500 (1 @200000 2)*3",
    '(((((1 2)*2 3)*2 @^8)*3 "x")*1000)[100:10000]',
    "@0x1be 0 0 2 0 0x83 0x20 0x20 0 le32:1 le32:0x7ff @0x1fe 0x55 0xaa",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a FILE."""
    (tmp_path / "FILE").write_bytes(b"FILE CONTENT")
    return tmp_path


@pytest.mark.parametrize("expression", SAME)
def test_data_is_what_nbdkit_makes_of_it(sides: Sides, place: Path, expression: str) -> None:
    arguments = (f"data={expression}", "v=5 6", "w=$v $v", "n=\\a 9")
    environment = {**os.environ, "from_environment": "1 2 3"}
    theirs, ours = sides.images("data", *arguments, cwd=place, env=environment)
    assert ours == theirs


@pytest.mark.parametrize(
    "arguments",
    [
        ("data=1 2 (3 4)*10", "size=1"),
        ("data=1 2 (3 4)*10", "size=22"),
        ("1 2 (3 4)*10", "size=1M"),
        ("size=1000", "data="),
        ("base64=aGVsbG8gbmJka2l0IHVzZXI=",),
        ("base64=MTIz", "size=1M"),
        ("raw=Hello, world! é",),
        ("raw=",),
    ],
)
def test_data_of_other_kinds_and_sizes(sides: Sides, arguments: tuple[str, ...]) -> None:
    theirs, ours = sides.images("data", *arguments)
    assert ours == theirs


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 @-2", "at @-2 (character 2): @-2 goes back beyond the start, from offset 1"),
        ("@^3", "an alignment is a power of 2"),
        ("@^0", "an alignment is a power of 2"),
        ("@", "expected a number"),
        ("@1k", "expected white space after the number"),
        ("256", "256 is too large"),
        ("le16:65536", "65536 is too large"),
        ("le16: 1", "expected"),
        ("08", "expected white space"),
        ('"ab', "is not followed by another"),
        ('"abc"[2:1]', "[2:1] is not a part of 3 bytes"),
        ('"abc"[1:5]', "[1:5] is not a part of 3 bytes"),
        ('"abc"[1', "expected ':'"),
        ("( 1 -> \\a ) \\a", "\\a is not defined here"),
        ("1 -> a", "a name like"),
        ("</nowhere/file", "/nowhere/file: No such file"),
        ("</dev/zero", "take a slice"),
        ("<(exit 3)", "failed with status 3"),
        ("<(yes", "this '<(' has no ')'"),
        ("$nope", "$nope is neither given"),
        ("$loop", "part of itself"),
        ("$bad", "in $bad, at ? (character 2)"),
        ("1 (2", "at (2 (character 2): this '(' has no ')'"),
        ("1)", "at ) (character 1): this ')' has no '('"),
        ("1,2", "at ,2 (character 1)"),
        ("*3", "expected a byte"),
        ("1 @4 *3", "expected a byte"),
        ("-> \\a", "expected a byte"),
        ("@0x100000000000000000", "larger than 2^63-1"),
        ("1*0x7fffffffffffffff*2", "larger than 2^63-1"),
        ("(" * 10_000, "too deeply"),
    ],
)
def test_data_says_what_is_wrong(expression: str, message: str) -> None:
    arguments = (f"data={expression}", "loop=1 $loop", "bad=1 ?")
    assert message in refusal("data", *arguments)


def test_data_needs_one_kind() -> None:
    for arguments in ((), ("1", "raw=1"), ("raw=1", "base64=MQ==")):
        assert "exactly one of" in refusal("data", *arguments)
    assert "not base64" in refusal("data", "base64=@@")


def test_data_that_only_we_take() -> None:
    assert content(opened("data", '"\\x41\\101\\0"')) == b"AA\0"
    assert content(opened("data", "le16:0xffff*2")) == b"\xff" * 4
    assert content(opened("data", "<(yes)[2:5]")) == b"y\ny"
    assert content(opened("data", "<(exit 3)[:0] 1")) == b"\1"


def test_data_is_sparse() -> None:
    made = plugin("data", "1 @0x1000000000000 2 0*100000000", "size=8000000000000000000")
    export = made.open("", False)
    assert export.pread(3, 2**48 - 1) == b"\0\2\0"
    assert export.get_size() == 8 * 10**18
    assert os.fstat(made.__dict__["_memfd"]).st_blocks * 512 <= 2 * MIB
    export.close()


def test_data_is_shared_by_clients() -> None:
    need("qemu-io")
    with Server("data", "7*4096") as server:
        for command in ("read -P 7 0 4096", "write -P 8 512 512", "read -P 8 512 512"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert (done.returncode, "failed" in done.stdout) == (0, False), done


# -- iso --------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with names that are hard for ISO 9660."""
    tree = tmp_path / "tree"
    deep = tree.joinpath(*"abcdefghij")
    deep.mkdir(parents=True)
    (deep / "deep").write_text("deep")
    for name in ("plain.txt", "PLAIN.TXT", ".hidden", "two.dots.tar.gz", "Ü ?*", "n" * 200):
        (tree / name).write_text(name)
    for number in range(2):
        (tree / f"{'日本語' * 20}{number}").write_text("long, and longer in UTF-8")
    (tree / "plain.txt").chmod(0o750)
    (tree / "a dir.d").mkdir()
    (tree / "a dir.d" / "large").write_bytes(os.urandom(MIB))
    (tree / "empty").touch()
    (tree / "link").symlink_to("plain.txt")
    os.mkfifo(tree / "fifo")
    return tree


def files_below(directory: Path) -> dict[str, bytes]:
    return dict(_files_below(directory))


def _files_below(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode):
            yield str(path.relative_to(directory)), path.read_bytes()


def test_iso(tmp_path: Path, tree: Path) -> None:
    """What another program finds on the image."""
    pytest.importorskip("pycdlib")
    need("osirrox", "nbdcopy")
    more = tmp_path / "more"
    (more / "a").mkdir(parents=True)
    (more / "a" / "merged").write_text("merged")
    image, found = tmp_path / "image", tmp_path / "found"
    with Server("iso", tree, more, "label=LABEL_1") as server:
        output("nbdcopy", server.uri, image)
        assert json.loads(output("nbdinfo", "--json", server.uri))["exports"][0]["is_read_only"]
    done = run("osirrox", "-indev", image, "-extract", "/", found)
    assert stat.S_IMODE((found / "plain.txt").stat().st_mode) == 0o750
    assert (found / "a").stat().st_mode == (tree / "a").stat().st_mode
    output("chmod", "-R", "u+w", found)
    assert "LABEL_1" in done.stderr
    assert files_below(found) == files_below(tree) | {"a/merged": b"merged"}
    assert os.readlink(found / "link") == "plain.txt"


def test_iso_has_names_for_every_reader(tree: Path) -> None:
    pycdlib = pytest.importorskip("pycdlib")
    made = plugin("iso", tree)
    image = pycdlib.PyCdlib()
    with open(os.dup(made.__dict__["_scratch"].fd), "rb") as file:
        image.open_fp(file)
        joliet = [child.file_identifier() for child in image.list_children(joliet_path="/")]
        names = {name.decode("utf-16-be") for name in joliet if len(name) > 1}
        short = [child.file_identifier() for child in image.list_children(iso_path="/")]
        image.close()
    assert {"PLAIN.TXT", "plain.txt_1", ".hidden", "Ü __", "n" * 64, "a dir.d"} <= names
    assert {"日本語" * 7, "日本語" * 6 + "日本_1"} <= names
    assert len(short) == len(set(short))
    assert {b"PLAIN.TXT;1", b"PLAIN_1.TXT;1", b"TWO_DOTS_TAR.GZ;1", b"A_DIR_D"} <= set(short)


def test_iso_has_short_names_for_very_many_that_begin_alike() -> None:
    content: Any = iso._Content(None)
    alike = "a long name that is cut off before"
    places = [content._place("", f"{alike}, {number}") for number in range(20_000)]
    assert len(set(places)) == len({place.iso for place in places}) == 20_000
    assert places[-1].iso == "/A_LONG_NAME_TH_19999.;1"


def test_iso_refuses(tmp_path: Path, tree: Path) -> None:
    assert "there is no directory" in refusal("iso", tree / "empty")
    assert "use up to 16 of" in refusal("iso", tree, "label=lower")
    pytest.importorskip("pycdlib")
    assert "more than one of the directories" in refusal("iso", tree, tree)
    (tree / "a" / os.fsdecode(b"no UTF-8: \xff")).touch()
    assert refusal("iso", tree).startswith("iso: '/a/no UTF-8: \\udcff': ")


def test_iso_without_pycdlib(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycdlib", None)
    assert refusal("iso", tree) == 'the iso plugin needs pycdlib: pip install "nbdfork[iso]"'
