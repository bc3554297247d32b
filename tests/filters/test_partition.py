"""The partition filter, on tables that sfdisk makes, and beside nbdkit."""

import errno
import struct
from pathlib import Path

import pytest

from tests.support.beside import compare, random_script
from tests.support.disks import MIB, Disk, gate
from tests.support.harness import need, output, refused
from tests.support.noise import noise

SIZE = 4 * MIB

TABLES = {
    "gpt": "label: gpt\nstart=2048,size=1000\nstart=4096,size=2048\n",
    "dos": "label: dos\nstart=2048,size=1000,type=83\nstart=4096,size=3000,type=5\n"
    "start=4100,size=100\nstart=4300,size=200\n",
}
EXPECTED = {
    "gpt": {1: (2048, 1000), 2: (4096, 2048)},
    "dos": {1: (2048, 1000), 5: (4100, 100), 6: (4300, 200)},
}


def partitioned(path: Path, kind: str) -> bytes:
    need("sfdisk")
    path.write_bytes(noise(SIZE // 4) * 4)
    output("sfdisk", "-q", path, input=TABLES[kind])
    return path.read_bytes()


@pytest.mark.parametrize("kind", TABLES)
def test_each_partition_of_a_table(kind: str, tmp_path: Path) -> None:
    content = partitioned(tmp_path / "disk", kind)
    for number, (start, count) in EXPECTED[kind].items():
        top = gate(Disk(content), "partition", f"partition={number}")
        assert top.size == count * 512
        expected = content[start * 512 : (start + count) * 512]
        assert top.pread(3000, top.size - 3000) == expected[-3000:]


@pytest.mark.parametrize("kind", TABLES)
def test_a_partition_that_is_not_there_is_told_with_those_that_are(
    kind: str, tmp_path: Path
) -> None:
    content = partitioned(tmp_path / "disk", kind)
    numbers = ", ".join(map(str, EXPECTED[kind]))
    with refused(errno.EINVAL, f"partition=4: .*these partitions: {numbers}"):
        gate(Disk(content), "partition", "partition=4")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (bytes(SIZE), "all zeroes"),
        (b"QFI\xfb".ljust(SIZE, b"\0"), "qcow2 image"),
        (b"\x1f\x8b".ljust(SIZE, b"\1"), "--filter=gzip.*partition comes first"),
        (b"abc".ljust(SIZE, b"\1"), "begins with 61 62 63"),
        (b"abc", "only 3 bytes"),
    ],
)
def test_a_disk_without_a_table_is_described(content: bytes, found: str) -> None:
    with refused(errno.EINVAL, found):
        gate(Disk(content), "partition", "partition=1")


def test_the_size_of_sectors_is_that_of_the_disk_or_as_given(tmp_path: Path) -> None:
    content = partitioned(tmp_path / "disk", "dos")
    top = gate(Disk(content * 5), "partition", "partition=1", "partition-sectorsize=4096")
    assert top.size == 1000 * 4096
    assert gate(Disk(content * 5, 4096), "partition", "partition=1").size == 1000 * 4096
    gpt = partitioned(tmp_path / "disk", "gpt")
    with refused(errno.EINVAL, "try partition-sectorsize=512"):
        gate(Disk(gpt), "partition", "partition=1", "partition-sectorsize=4096")


def test_a_chain_of_logical_partitions_that_is_a_circle_has_an_end() -> None:
    def sector(*entries: tuple[int, int, int]) -> bytes:
        packed = b"".join(struct.pack("<B3xB3xII", 0, *entry) for entry in entries)
        return bytes(446) + packed.ljust(64, b"\0") + b"\x55\xaa"

    content = bytearray(SIZE)
    content[:512] = sector((0x05, 2048, 4000))
    content[2048 * 512 :][:512] = b""
    content[2048 * 512 : 2049 * 512] = sector((0x83, 1, 1), (0x05, 0, 4000))
    with refused(errno.EINVAL, "these partitions: 5, 6"):
        gate(Disk(bytes(content)), "partition", "partition=4000")


@pytest.mark.parametrize(("kind", "number"), [("gpt", 2), ("dos", 1), ("dos", 6)])
def test_partition_as_nbdkit_does_it(kind: str, number: int, tmp_path: Path) -> None:
    content = partitioned(tmp_path / "disk", kind)
    size = EXPECTED[kind][number][1] * 512
    script = random_script(size, seed=number, length=30)
    compare(tmp_path, ["--filter=partition", f"partition={number}"], script, content)
