"""The filters that look at content, or change it: swab, checkwrite, xor and evil."""

import errno
import logging
from pathlib import Path

import pytest

from nbdfork.plugin import Extent
from tests.support.beside import compare
from tests.support.disks import BLOCK, SIZE, Disk, ZeroingDisk, gate, layer
from tests.support.disks import chain as made_chain
from tests.support.harness import Server, need, output, refused
from tests.support.noise import noise

ALIGNED = SIZE - SIZE % 8


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_swab_swaps_the_bytes_of_words(bits: int) -> None:
    content = noise(SIZE)
    disk = ZeroingDisk(content)
    top = gate(disk, "swab", f"swab-bits={bits}")
    word = bits // 8
    swapped = b"".join(
        content[place : place + word][::-1] for place in range(0, SIZE - SIZE % word, word)
    )
    assert top.pread(top.size, 0) == swapped
    top.pwrite(memoryview(b"abcdefgh"), 8, fua=False)
    assert top.pread(8, 8) == b"abcdefgh"
    assert disk.content[8 : 8 + word] == b"abcdefgh"[:word][::-1]
    top.zero(16, 8, may_trim=True, fast=False, fua=False)
    assert disk.asked[-1] == "zero flags=1"
    with refused(errno.EINVAL):
        top.pread(1, 0)


@pytest.mark.parametrize("bits", [16, 32, 64])  # with 8, nbdkit 1.32 writes garbage
def test_swab_as_nbdkit_does_it(bits: int, tmp_path: Path) -> None:
    script = [
        ("get_size",),
        ("pread", 800, 8),
        ("pwrite", noise(4096), 800),
        ("zero", 64, 1600),
        ("trim", 64, 3200),
        ("pread", 49000, 0),
        ("pread", 8, 1),
    ]
    compare(tmp_path, ["--filter=swab", f"swab-bits={bits}"], script, noise(49999))


def test_words_of_8_bits_are_not_swapped() -> None:
    assert gate(Disk(noise(SIZE)), "swab", "swab-bits=8").pread(SIZE, 0) == noise(SIZE)


def test_checkwrite_lets_through_what_is_there_already() -> None:
    content = noise(2 * BLOCK) + bytes(BLOCK) + noise(BLOCK)
    disk = Disk(content)
    top = gate(disk, "checkwrite")
    top.pwrite(memoryview(content), 0, fua=True)
    top.zero(BLOCK, 2 * BLOCK, may_trim=True, fast=True, fua=False)
    top.trim(BLOCK - 10, 2 * BLOCK + 5, fua=False)
    top.flush()
    assert disk.content == content
    assert not set(disk.asked) & {"pwrite", "trim", "flush"}


def test_checkwrite_refuses_a_change(caplog: pytest.LogCaptureFixture) -> None:
    content = noise(BLOCK)
    top = gate(Disk(content), "checkwrite")
    changed = bytearray(content)
    changed[1000] ^= 1
    with refused(errno.EIO, "at byte 1000"):
        top.pwrite(memoryview(changed), 0, fua=False)
    with refused(errno.EIO):
        top.zero(BLOCK, 0, may_trim=True, fast=False, fua=False)
    assert not caplog.records
    showing = layer("checkwrite")
    made = made_chain(Disk(content), [showing])
    made.set_debug_flag("checkwrite", "showdiffs", 1)
    with caplog.at_level(logging.DEBUG), refused(errno.EIO):
        made.top.open("", read_only=False).pwrite(memoryview(changed), 0, 0)
    assert f"at 1000 there is {content[1000:1016].hex(' ')}" in caplog.text


def test_a_disk_is_copied_to_itself_through_checkwrite(tmp_path: Path) -> None:
    need("nbdcopy", "qemu-img")
    disk = tmp_path / "disk"
    disk.write_bytes(noise(300_000).ljust(1 << 20, b"\0") + noise(100_000))
    other = tmp_path / "other"
    other.write_bytes(bytes(disk.stat().st_size))
    with Server("-n", "--filter=checkwrite", "file", str(disk)) as server:
        output("nbdcopy", server.uri, server.uri)
        with pytest.raises(AssertionError, match=r"Input/output error|EIO"):
            output("nbdcopy", other, server.uri)


# -- xor --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (["xor=0x123456", "xorlen=3"], b"\x12\x34\x56"),
        (["xor=0x123456", "xorlen=2"], b"\x34\x56"),
        (["xor=255", "xorlen=4"], b"\0\0\0\xff"),
    ],
)
def test_xor_with_a_value(value: list[str], key: bytes) -> None:
    content = noise(SIZE)
    disk = Disk(content)
    top = gate(disk, "xor", *value)
    expected = bytes(byte ^ key[place % len(key)] for place, byte in enumerate(content))
    assert top.pread(1000, 7) == expected[7:1007]
    top.pwrite(memoryview(b"data"), 1, fua=False)
    assert top.pread(4, 1) == b"data"
    top.trim(100, 1000, fua=False)
    top.zero(100, 2000, may_trim=True, fast=False, fua=False)
    assert top.pread(100, 1000) == top.pread(100, 2000) == bytes(100)
    assert top.extents(SIZE, 0, 0) == [Extent(0, SIZE, 0)]


def test_xor_with_what_looks_random() -> None:
    disk = Disk(bytes(20000))
    top = gate(disk, "xor", "xor=rand:7")
    stream = bytes(top.pread(20000, 0))
    assert len(set(stream)) == 256
    assert top.pread(5000, 4000) == stream[4000:9000]
    assert gate(Disk(bytes(20000)), "xor", "xor=rand").pread(20000, 0) != stream
    top.pwrite(memoryview(b"hello"), 4094, fua=False)
    assert top.pread(5, 4094) == b"hello"
    assert disk.content[4094:4099] != b"hello"


# -- evil -------------------------------------------------------------------------------------


def wrong_bits(one: bytes, two: bytes) -> int:
    return (int.from_bytes(one, "big") ^ int.from_bytes(two, "big")).bit_count()


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [("stuck-bits", 400, 700), ("cosmic-rays", 800, 1250), ("stuck-wires", 400, 700)],
)
def test_evil_reads_some_bits_wrong(mode: str, low: int, high: int) -> None:
    """Of 1,048,576 bits one in 1024 is drawn, and half of those that are stuck are right anyway."""
    content = noise(128 * 1024)
    disk = Disk(content)
    found = []
    for _ in range(2):
        top = gate(disk, "evil", f"evil={mode}", "evil-probability=1:1024", "evil-seed=5")
        found.append(bytes(top.pread(len(content), 0)))
    assert low < wrong_bits(found[0], content) < high
    assert found[0] == found[1]
    again = bytes(top.pread(len(content), 0))
    assert (again == found[0]) == (mode != "cosmic-rays")
    assert disk.content == content


def test_bits_are_stuck_on_the_disk_or_on_the_wire() -> None:
    content = bytes([0x55]) * (64 * 1024)
    for mode, same_place in (("stuck-bits", True), ("stuck-wires", False)):
        top = gate(Disk(content), "evil", f"evil={mode}", "evil-probability=1%", "evil-seed=1")
        whole = bytes(top.pread(8192, 0))
        part = bytes(top.pread(4096, 4096))
        assert (part == whole[4096:]) == same_place
        assert (part == whole[:4096]) == (not same_place)


def test_holes_stay_as_they_are_and_bits_may_be_stuck_at_times_only() -> None:
    content = bytes(BLOCK) + noise(BLOCK)
    top = gate(Disk(content), "evil", "evil-probability=50%")  # which counts as all
    found = bytes(top.pread(2 * BLOCK, 0))
    assert found[:BLOCK] == bytes(BLOCK)
    assert found[BLOCK:] != content[BLOCK:]
    never = gate(Disk(content), "evil", "evil-probability=1", "evil-stuck-probability=0")
    assert never.pread(2 * BLOCK, 0) == content
