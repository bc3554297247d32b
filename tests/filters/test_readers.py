"""The filters that read an image or an archive, made by real tools: tar, lzip and qcow2dec."""

import errno
import io
import tarfile
from pathlib import Path

import pytest

from nbdfork.plugin import HOLE, ZERO, Extent
from tests.support.beside import compare, random_script
from tests.support.disks import KIB, MIB, Disk, gate
from tests.support.harness import need, output, refused
from tests.support.noise import noise

# -- tar --------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """An archive of three files, made by tar."""
    need("tar")
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("first", "deep/disk.img", "last")):
        (folder / name).write_bytes(noise(50_000 + number))
    (folder / "link").symlink_to("first")
    output("tar", "-C", folder, "-cf", tmp_path / "tar", "first", "deep/disk.img", "link", "last")
    return (tmp_path / "tar").read_bytes()


def test_a_file_of_an_archive_is_read_and_written(archive: bytes) -> None:
    disk = Disk(archive, 512)
    disk.minimum = 1
    top = gate(disk, "tar", "tar-entry=deep/disk.img")
    assert top.size == 50_001
    assert top.pread(top.size, 0) == noise(50_001)
    top.pwrite(memoryview(b"data"), 1000, fua=False)
    with tarfile.open(fileobj=io.BytesIO(bytes(disk.content))) as changed:
        file = changed.extractfile("deep/disk.img")
        assert file is not None
        assert file.read() == noise(50_001)[:1000] + b"data" + noise(50_001)[1004:]
    assert gate(Disk(archive), "tar", "tar-entry=./first").size == 50_000


def test_what_is_not_in_an_archive_is_told_with_what_is(archive: bytes) -> None:
    with refused(errno.EINVAL, "deep/disk.img, link, last"):
        gate(Disk(archive), "tar", "tar-entry=other")
    with refused(errno.EINVAL, "in the first 4096 bytes, there are: first"):
        gate(Disk(archive), "tar", "tar-entry=last", "tar-limit=4k")
    with refused(errno.EINVAL, "no regular file"):
        gate(Disk(archive), "tar", "tar-entry=link")
    with refused(errno.EINVAL, "is no tar archive"):
        gate(Disk(noise(MIB)), "tar", "tar-entry=first")


def test_tar_as_nbdkit_does_it(archive: bytes, tmp_path: Path) -> None:
    script = random_script(50_001, seed=9, length=40)
    compare(tmp_path, ["--filter=tar", "tar-entry=deep/disk.img"], script, archive)


# -- lzip -------------------------------------------------------------------------------------


def lzipped(tmp_path: Path, *contents: bytes) -> bytes:
    """Return members of lzip data, each with one of *contents*."""
    need("lzip")
    packed = b""
    for content in contents:
        (tmp_path / "part").write_bytes(content)
        output("lzip", "-kf", tmp_path / "part")
        packed += (tmp_path / "part.lz").read_bytes()
    return packed


@pytest.mark.parametrize("tail", [b"", bytes(700), bytes(5000)])
def test_members_of_lzip_data_are_a_disk(tail: bytes, tmp_path: Path) -> None:
    contents = (noise(100_000), b"", bytes(70_000), noise(10) * 5000)
    top = gate(Disk(lzipped(tmp_path, *contents) + tail), "lzip")
    whole = b"".join(contents)
    assert top.pread(len(whole), 0) == whole
    assert top.pread(20, 99_990) == whole[99_990:100_010]
    assert not top.can_write


def test_a_large_dictionary_and_many_members(tmp_path: Path) -> None:
    need("lzip")
    (tmp_path / "part").write_bytes(noise(300_000) * 2)
    output("lzip", "-9", "-b", "100k", tmp_path / "part")
    top = gate(Disk((tmp_path / "part.lz").read_bytes(), 512 - 511), "lzip")
    assert top.pread(top.size, 0) == noise(300_000) * 2


def test_lzip_data_that_are_damaged(tmp_path: Path) -> None:
    packed = lzipped(tmp_path, noise(50_000), noise(60_000))
    with refused(errno.EINVAL, "no lzip data"):
        gate(Disk(noise(MIB)), "lzip")
    with refused(errno.EINVAL, "cut off"):
        gate(Disk(packed[:-1]), "lzip")
    with refused(errno.EINVAL, "lzip-max-block=4096"):
        gate(Disk(packed), "lzip", "lzip-max-block=4k")
    changed = bytearray(packed)
    changed[20_000] ^= 1
    top = gate(Disk(bytes(changed)), "lzip")
    with refused(errno.EIO, "member at byte 0"):
        top.pread(10, 0)
    assert top.pread(60_000, 50_000) == noise(60_000)


# -- qcow2dec ---------------------------------------------------------------------------------

SIZE = 3 * MIB + 512


def image(tmp_path: Path, content: bytes, options: str, *words: str) -> bytes:
    need("qemu-img")
    (tmp_path / "raw").write_bytes(content)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words]
    output(*command, "-o", options, tmp_path / "raw", tmp_path / "qcow2")
    return (tmp_path / "qcow2").read_bytes()


@pytest.fixture(scope="module")
def content() -> bytes:
    holes = noise(300_000) + bytes(700_000) + noise(64) * 16_000
    return holes.ljust(SIZE - 5000, b"\0") + noise(5000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("compat=1.1", []),
        ("compat=0.10", []),
        ("compat=1.1,cluster_size=512", []),
        ("compat=1.1,cluster_size=2M", []),
        ("compat=1.1", ["-c"]),
        ("compat=1.1,cluster_size=4k", ["-c"]),
        ("compat=1.1,compression_type=zstd", ["-c"]),
        ("compat=1.1,preallocation=metadata", []),
    ],
)
def test_qcow2_images_of_all_kinds(
    options: str, words: list[str], content: bytes, tmp_path: Path
) -> None:
    top = gate(Disk(image(tmp_path, content, options, *words)), "qcow2dec")
    assert top.size == SIZE
    assert not top.can_write
    step = 100_003
    found = b"".join(bytes(top.pread(min(step, SIZE - at), at)) for at in range(0, SIZE, step))
    assert found == content
    assert top.pread(SIZE, 0) == content
    place = 0
    while place < SIZE:
        for start, length, kind in top.extents(SIZE - place, place, 0):
            assert not (kind & ZERO and any(content[start : start + length]))
            place = start + length


def test_clusters_that_read_as_zeroes(tmp_path: Path) -> None:
    need("qemu-io")
    path = tmp_path / "qcow2"
    output("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    commands = ["write -P 7 0 192k", "write -z 64k 64k", "write -z -u 512k 64k"]
    output("qemu-io", "-f", "qcow2", *(word for c in commands for word in ("-c", c)), path)
    top = gate(Disk(path.read_bytes()), "qcow2dec")
    expected = b"\7" * 64 * KIB + bytes(64 * KIB) + b"\7" * 64 * KIB
    assert top.pread(192 * KIB, 0) == expected
    assert [(e.offset, e.length, e.type & ZERO) for e in top.extents(MIB, 0, 0)] == [
        (0, 64 * KIB, 0),
        (64 * KIB, 64 * KIB, ZERO),
        (128 * KIB, 64 * KIB, 0),
        (192 * KIB, MIB - 192 * KIB, ZERO),
    ]
    assert top.extents(MIB - 192 * KIB, 192 * KIB, 0) == [
        Extent(192 * KIB, MIB - 192 * KIB, HOLE | ZERO)
    ]


def test_images_that_are_not_served(tmp_path: Path, content: bytes) -> None:
    good = image(tmp_path, content, "compat=1.1")
    with refused(errno.EINVAL, "no qcow2 image"):
        gate(Disk(noise(MIB)), "qcow2dec")
    (tmp_path / "base").write_bytes(bytes(MIB))
    backed = tmp_path / "backed"
    backing = ("-b", tmp_path / "base", "-F", "raw")
    output("qemu-img", "create", "-q", "-f", "qcow2", *backing, backed)
    with refused(errno.EINVAL, "backing file"):
        gate(Disk(backed.read_bytes()), "qcow2dec")
    extended = tmp_path / "extended"
    options = "extended_l2=on,cluster_size=128k"
    output("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, extended, "1M")
    with refused(errno.EINVAL, "extended L2"):
        gate(Disk(extended.read_bytes()), "qcow2dec")
    for place, byte, message in ((4, 9, "version"), (23, 40, "damaged"), (79, 2, "corrupt")):
        changed = bytearray(good)
        changed[place] = byte
        with refused(errno.EINVAL, message):
            gate(Disk(bytes(changed)), "qcow2dec")
    with refused(errno.EINVAL, "cut off"):
        gate(Disk(good[: 3 * 65536]), "qcow2dec")


def test_damage_of_an_image_fails_only_what_needs_it(tmp_path: Path, content: bytes) -> None:
    good = image(tmp_path, content, "compat=1.1", "-c")
    entry = int.from_bytes(good[40:48], "big")
    l2 = int.from_bytes(good[entry : entry + 8], "big") & (1 << 56) - 512
    changed = bytearray(good)
    at = l2 + 8 * 16
    packed = int.from_bytes(good[at : at + 8], "big") & (1 << 54) - 1
    changed[packed : packed + 40] = b"\xff" * 40
    top = gate(Disk(bytes(changed)), "qcow2dec")
    with refused(errno.EIO):
        top.pread(10, MIB)
    assert top.pread(10, MIB + 65536) == content[MIB + 65536 : MIB + 65536 + 10]
