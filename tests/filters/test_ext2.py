"""The ext2 filter, on file systems that mkfs makes."""

import errno
from pathlib import Path

import pytest

from nbdfork.plugin import HOLE, ZERO
from tests.support.beside import SERVERS, outcomes
from tests.support.disks import KIB, MIB, Disk, exports, gate
from tests.support.harness import need, output, refused
from tests.support.noise import noise

CONTENT = noise(300_000) + bytes(5 * MIB) + noise(70_001)
"""A file with a hole, which is long enough to need an indirect block of an indirect block."""

KINDS = {
    "ext2": ("-t", "ext2", "-b", "1024"),
    "ext3": ("-t", "ext3"),
    "ext4": ("-t", "ext4"),
    "ext4 64bit": ("-t", "ext4", "-O", "64bit,^metadata_csum", "-b", "1024", "-I", "256"),
}


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file system of each kind, with a file in a folder, and a few hundred others."""
    need("mkfs.ext4")
    folder = tmp_path_factory.mktemp("ext2")
    tree = folder / "tree"
    (tree / "disks").mkdir(parents=True)
    with (tree / "disks" / "disk.raw").open("wb") as file:
        file.write(noise(300_000))
        file.seek(5 * MIB, 1)
        file.write(noise(70_001))
    (tree / "small").write_bytes(b"hello")
    (tree / "empty").touch()
    (tree / "link").symlink_to("small")
    for number in range(300):
        (tree / "disks" / f"a file with a rather long name of number {number}").touch()
    found = {}
    for kind, options in KINDS.items():
        image = folder / "image"
        image.write_bytes(bytes(16 * MIB))
        output("mkfs.ext4", "-q", "-F", *options, "-d", tree, image)
        found[kind] = image.read_bytes()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_file_systems(kind: str, systems: dict[str, bytes]) -> None:
    disk = Disk(systems[kind], 512)
    top = gate(disk, "ext2", "ext2file=/disks/disk.raw")
    assert top.size == len(CONTENT)
    assert not top.can_write
    step = 400_003
    found = [top.pread(min(step, top.size - at), at) for at in range(0, top.size, step)]
    assert b"".join(map(bytes, found)) == CONTENT
    assert any(extent.type == HOLE | ZERO for extent in top.extents(top.size, 0, 0))
    for start, length, type_ in top.extents(top.size, 0, 0):
        assert not (type_ & ZERO and any(CONTENT[start : start + length]))
    assert gate(Disk(systems[kind]), "ext2", "ext2file=/small").pread(5, 0) == b"hello"
    assert gate(Disk(systems[kind]), "ext2", "ext2file=/empty").size == 0


def test_clients_can_name_the_file(systems: dict[str, bytes]) -> None:
    found = exports(Disk(systems["ext4"]), "ext2", "ext2file=exportname")
    assert found.open("/small").pread(5, 0) == b"hello"
    assert found.open("disks/disk.raw").size == len(CONTENT)


def test_what_cannot_be_served(systems: dict[str, bytes]) -> None:
    def opened(content: bytes, path: str) -> None:
        exports(Disk(content), "ext2", "ext2file=exportname").open(path)

    good = systems["ext4"]
    with pytest.raises(Exception, match="no export"):
        opened(good, "/disks/other")
    for path, text in (
        ("/link", "no regular"),
        ("/disks", "no regular"),
        ("/small/x", "no folder"),
    ):
        with refused(errno.EINVAL, text):
            opened(good, path)
    with refused(errno.EINVAL, "no ext2"):
        opened(noise(MIB), "/small")
    for place, byte, text in (
        (1024 + 0x60, good[1024 + 0x60] | 4, "journal"),
        (1024 + 0x63, 9, "unknown"),
    ):
        changed = bytearray(good)
        changed[place] = byte
        with refused(errno.EINVAL, text):
            opened(bytes(changed), "/small")
    with refused(errno.EIO, "past the end"):
        exports(Disk(good[: 64 * KIB]), "ext2", "ext2file=/disks/disk.raw").open("")


def test_ext2_as_nbdkit_reads_it(systems: dict[str, bytes], tmp_path: Path) -> None:
    need("nbdkit")
    image = tmp_path / "image"
    image.write_bytes(systems["ext4"])
    script = [("get_size",), ("pread", 5000, 299_000), ("pread", 70_001, 300_000 + 5 * MIB)]
    arguments: list[str | Path] = ["-r", "--filter=ext2", "file", image, "ext2file=/disks/disk.raw"]
    found = [outcomes(server, arguments, script) for server in SERVERS]
    assert found[0] == found[1]
