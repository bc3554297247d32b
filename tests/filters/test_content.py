"""The filters that look at content, or change it: swab and checkwrite."""

import errno
import logging
from pathlib import Path

import pytest

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
