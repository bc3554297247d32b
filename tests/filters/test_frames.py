"""What follows compressed data: a disk is what the format's own program makes of the whole, or
reading it fails; it never ends too early in silence.
"""

import itertools
import random
import subprocess
from functools import cache
from pathlib import Path

import pytest

from nbdfork.plugin import Export
from tests.support.compressed import LIBRARIES, MIB, all_of, compressed, refusal, smashed, unpacked
from tests.support.harness import need

ONE, TWO = bytes(range(256)) * 6, b"another" * 150
"""What two streams hold."""

PLAIN = {
    "gzip": "gzip -c",
    "xz": "xz -c",
    "bzip2": "bzip2 -c",
    "zstd": "zstd -q -c",
    "lz4": "lz4 -q -c",
    "lzma": "xz -c --format=lzma",
    "legacy lz4": "lz4 -q -c -l",
    "zstd without a checksum": "zstd -q -c --no-check",
}
"""Programs that make one stream of each kind."""


SKIPPED = b"\x5f\x2a\x4d\x18" + (1000).to_bytes(4, "little") + b"x" * 1000
"""A frame to be skipped, which zstd and lz4 have in common."""


@cache
def stream(kind: str, data: bytes) -> bytes:
    return compressed(kind if kind in LIBRARIES else "gzip", data, PLAIN[kind])


def tails() -> dict[str, bytes]:
    """What may follow a stream."""
    skippable = SKIPPED
    found = {
        "nothing": b"",
        "zeroes": bytes(5000),
        "garbage": b"garbage" * 1000,
        "eight zeroes and garbage": bytes(8) + b"garbage" * 1000,
        "a byte": b"x",
        "a frame to skip": skippable,
        "the head of a frame to skip": skippable[:6],
        "half of a frame to skip": skippable[:500],
        "an empty frame to skip": skippable[:4] + bytes(4),
        "zeroes and a frame to skip": bytes(8) + skippable,
    }
    for kind in PLAIN:
        whole = stream(kind, TWO)
        found |= {kind: whole, f"half of {kind}": whole[: len(whole) // 2]}
        found |= {
            f"zeroes and {kind}": bytes(512) + whole,
            f"{kind} and garbage": whole + b"x" * 99,
        }
        found |= {f"a frame to skip and {kind}": skippable + whole}
    return found


def read(export: Export) -> bytes | None:
    """Return the disk; None if a part of it cannot be read."""
    try:
        return all_of(export)
    except OSError:
        return None


def of_the_program(name: str, data: bytes) -> bytes | None:
    """Return what the format's own program makes of *data*; None if it fails.

    A program that only warns, as gzip does with status 2, has not failed.
    """
    need(name)
    done = subprocess.run([name, "-dc"], input=data, capture_output=True, check=False, timeout=60)
    return done.stdout if done.returncode in (0, 2) else None


@pytest.mark.parametrize("name", list(LIBRARIES))
def test_what_follows_is_understood_as_by_the_program_or_reading_fails(name: str) -> None:
    wrong = []
    for kind, tail in tails().items():
        data = stream(name, ONE) + tail
        try:
            ours = read(unpacked(name, data))
        except OSError:  # refused when it is opened
            ours = None
        theirs = of_the_program(name, data)
        if ours != theirs and ours is not None and kind not in ALLOWED.get(name, ()):
            wrong.append((kind, len(ours), theirs and len(theirs)))
    assert wrong == []


ALLOWED = {"gzip": ("a byte",), "lz4": ("zeroes",), "zstd": ("zeroes",)}
"""Where programs fail and a disk is good: tapes and block devices end in zeroes, and gzip, which
ignores garbage, calls one byte of it an early end.
"""


GLUED = {
    "gzip": ["gzip -c", "gzip -c1n", "gzip -c </dev/null"],
    "xz": ["xz -c", "xz -c --check=none", "xz -c </dev/null", "head -c 8 /dev/zero"],
    "bzip2": ["bzip2 -c", "bzip2 -c1", "bzip2 -c </dev/null"],
    "zstd": ["zstd -qc", "zstd -qc --no-check", "zstd -qc </dev/null", "cat skipped"],
    "lz4": [
        "lz4 -qc",
        "lz4 -qcl",
        "lz4 -qc -BX --content-size",
        "lz4 -qc </dev/null",
        "cat skipped",
    ],
}
"""Programs that make what each format's program takes in any order, one after another."""


@pytest.mark.parametrize("name", GLUED)
def test_streams_glued_in_any_order_are_what_the_program_makes_of_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("skipped").write_bytes(SKIPPED)
    parts = {
        command: [compressed(name, data, command) for data in (ONE, TWO)] for command in GLUED[name]
    }
    for words in itertools.permutations(parts, 3):
        data = b"".join(parts[word][number % 2] for number, word in enumerate(words))
        theirs = of_the_program(name, data)
        if theirs is None:
            assert name == "xz", words
            assert "/dev/zero" in words[0]  # nothing may come before the first
        else:
            assert read(unpacked(name, data)) == theirs, words


def test_an_lz4_frame_of_the_legacy_format_may_have_many_blocks() -> None:
    content = random.Random(1).randbytes(5000) * 4000  # 20 MB: two blocks of 8 MiB, and a third
    data = compressed("lz4", content, "lz4 -qcl")
    export = unpacked("lz4", data + stream("lz4", ONE))
    assert all_of(export) == content + ONE
    for lost, text in ((1, "truncated"), (len(data) // 2, "truncated")):
        export = unpacked("lz4", data[:-lost], lz4_salvage="true")
        with pytest.raises(OSError, match=text):
            all_of(export)
    second = 8 + int.from_bytes(data[4:8], "little") + 4
    export = unpacked("lz4", smashed(data, second), lz4_salvage="true")
    assert export.pread(MIB, 7 * MIB) == content[7 * MIB : 8 * MIB]
    with pytest.raises(OSError, match="damaged lz4 data at or before byte"):
        export.pread(MIB, 8 * MIB)


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_a_disk_that_goes_on_is_readable_up_to_there(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = stream(name, ONE)
    export = unpacked(name, data + b"garbage" * 1000)
    assert export.get_size() > len(ONE)
    assert bytes(export.pread(len(ONE), 0)) == ONE
    with pytest.raises(OSError, match="neither a frame nor zeroes"):
        export.pread(export.get_size() - len(ONE), len(ONE))
    assert f"what follows the {name} data at byte {len(data)} is neither" in caplog.text


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_nothing_and_garbage_are_no_disk(name: str) -> None:
    assert "nothing of it can be decoded" in refusal(name, stream(name, b"") + b".")
    assert unpacked(name, stream(name, b"") + bytes(9)).get_size() == 0


def test_zeroes_without_an_end_are_not_all_read(caplog: pytest.LogCaptureFixture) -> None:
    data = stream("lz4", ONE)
    assert all_of(unpacked("lz4", data + bytes(65 * MIB))) == ONE
    assert "ignoring what follows the zeroes after the data" in caplog.text
