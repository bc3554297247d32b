"""The data plugin: its language makes of an expression what nbdkit's makes of it."""

import os
import tracemalloc
from pathlib import Path

import pytest

from nbdfork.plugin import ConfigError
from tests.support.harness import Server, need, run
from tests.support.plugins import MIB, Sides, content, file_of, opened, plugin, refusal

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
    "1*8 @0 (@4 2)",
    "1*8 @2 (@2) (@1 3 @^4)*2",
    "1*200000 @0 (@100000 2)",
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
        ("</proc/self/mem", "/proc/self/mem: Input/output error"),
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
        ("(1*2000000) -> \\a " + "(\\a 1) -> \\a " * 101, "nested more than 100 deep"),
        ("@" + "9" * 5000, "no number may be so large"),
        ("$laugh0", "there are more than 1048576 characters"),
    ],
)
def test_data_says_what_is_wrong(expression: str, message: str) -> None:
    laughs = [f"laugh{n}=$laugh{n + 1} $laugh{n + 1}" for n in range(30)]
    arguments = (f"data={expression}", "loop=1 $loop", "bad=1 ?", *laughs, "laugh30=1")
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
    assert os.fstat(made.__dict__["_disk"].fd).st_blocks * 512 <= 2 * MIB
    export.close()


TERABYTES = [
    "1*1099511627776",
    "((1*1000000)*1000000)*100",
    "(1 @1000000)*1000000000",
    "(1 @100000)*100000000000 @0 1",
    "(1*2000000 -> \\a " + "(\\a \\a) -> \\a " * 40 + "\\a)",
    "(1*2000000 -> \\a " + "(\\a @0 \\a) -> \\a " * 40 + "\\a)",
    "(1*2000000 -> \\a " + "(\\a @1 \\a) -> \\a " * 40 + "\\a)[1:][:500000]",
]


@pytest.mark.parametrize("expression", TERABYTES)
def test_data_that_would_take_all_memory_are_refused_before_they_are_made(expression: str) -> None:
    tracemalloc.start()
    try:
        text = refusal("data", expression)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    assert "max-memory" in text or "overlap too often" in text


def test_data_may_take_as_much_memory_as_is_said() -> None:
    assert content(opened("data", "1*1048576", "max-memory=1M")) == b"\1" * MIB
    assert "would take 1056768 bytes of memory, more than max-memory=1048576: give a smaller" in (
        refusal("data", "1*1048576 2", "max-memory=1M")
    )
    assert content(opened("data", TERABYTES[0], "size=1M")) == b"\1" * MIB
    assert content(opened("data", "7 " + TERABYTES[2], "size=3")) == b"\7\1\0"


@pytest.mark.parametrize("source", ["<{}", "<(cat {})", "<(cat /dev/zero {})", "<{}[:600000] <{}"])
def test_data_from_elsewhere_have_the_same_limit(tmp_path: Path, source: str) -> None:
    disk = file_of(tmp_path / "disk", MIB)
    text = refusal("data", source.format(disk, disk), "max-memory=1000000")
    assert "all that is left of max-memory=1000000: take a slice of it" in text


def test_terabytes_of_zeroes_are_made_at_once() -> None:
    made = plugin("data", "1 (@1000000 0 @+1000000)*1000000000000 ((0 0)*99999)*999999999 2")
    assert os.fstat(made.__dict__["_disk"].fd).st_blocks * 512 <= MIB


def test_data_is_shared_by_clients() -> None:
    need("qemu-io")
    with Server("data", "7*4096") as server:
        for command in ("read -P 7 0 4096", "write -P 8 512 512", "read -P 8 512 512"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert (done.returncode, "failed" in done.stdout) == (0, False), done


@pytest.mark.parametrize("end", [2**46, 2**70])
@pytest.mark.parametrize("source", ["<{}", "<(cat {})"])
def test_a_slice_of_data_far_past_their_end(tmp_path: Path, source: str, end: int) -> None:
    """It is a mistake like any other, and takes no memory."""
    disk = file_of(tmp_path / "disk", MIB)
    with pytest.raises(ConfigError, match=f"is not a part of {MIB} bytes"):
        plugin("data", source.format(disk) + f"[:{end}]")
