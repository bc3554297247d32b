"""The truncate filter: a disk made longer or shorter."""

import errno
from pathlib import Path

import pytest

from tests.support.beside import compare, random_script
from tests.support.disks import BLOCK, SIZE, Disk, ZeroingDisk, gate
from tests.support.harness import refused
from tests.support.noise import noise


def test_a_disk_made_shorter_is_not_touched_past_its_new_end() -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "truncate", "round-down=4096")
    assert top.size == 5 * BLOCK
    top.zero(top.size, 0, may_trim=True, fast=False, fua=False)
    assert disk.content[5 * BLOCK :] == noise(SIZE)[5 * BLOCK :]
    with refused(errno.ENOSPC):
        top.pwrite(memoryview(b"x"), top.size, fua=False)


def test_a_disk_with_an_unreachable_end_cannot_be_made_longer() -> None:
    with refused(errno.EINVAL):
        gate(Disk(bytes(SIZE), 512), "truncate", "round-up=512")
    assert gate(Disk(bytes(SIZE), 512), "truncate", "round-down=512").size % 512 == 0


def test_the_size_cannot_be_rounded_up_past_the_largest() -> None:
    with refused(errno.EFBIG):
        gate(Disk(bytes(SIZE)), "truncate", f"truncate={2**63 - 1}", "round-up=512")


def test_a_fast_zero_past_the_real_end_has_nothing_to_do() -> None:
    top = gate(ZeroingDisk(noise(SIZE)), "truncate", "round-up=1M")
    assert top.can_fast_zero  # though the disk below does not say that it is fast
    top.zero(BLOCK, top.size - BLOCK, may_trim=True, fast=True, fua=False)
    with refused(errno.EOPNOTSUPP):
        top.zero(BLOCK, SIZE - BLOCK, may_trim=True, fast=True, fua=False)
    assert top.pread(SIZE, 0) == noise(SIZE)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["truncate=0"],
        ["truncate=70000"],
        ["truncate=5000"],
        ["round-up=4096"],
        ["round-down=4096"],
        ["round-up=4096", "round-down=65536"],
        ["truncate=5000", "round-up=4096"],
    ],
)
def test_truncate_as_nbdkit_does_it(tmp_path: Path, arguments: list[str]) -> None:
    # It is left open how much of a failed write is done, and nbdkit does a part.
    script = [request for request in random_script(60000, seed=2) if request[0] != "pwrite"]
    script += [("pwrite", noise(1000), offset) for offset in (0, 4000, 30000, 59000)]
    script += [("pwrite", b"x", 60000), ("pwrite", bytes(2000), 59900), ("pread", 2000, 59000)]
    script += [("zero", 1000, 59500), ("zero", 10, 60001), ("trim", 1000, 59500)]
    compare(tmp_path, ["--filter=truncate", *arguments], script, noise(60000))
