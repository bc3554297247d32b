"""The floppy plugin: what other programs find on the disk is what is in the directory."""

import errno
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from nbdfork.plugins.floppy import fat32
from nbdfork.plugins.floppy.names import Names

from nbdfork.plugin import HOLE, ZERO
from tests.support import plugins
from tests.support.harness import NBDFORK, need, output, run

MIB = 1 << 20
MTOOLS = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}


opened = partial(plugins.opened, "floppy", read_only=True)
refusal = partial(plugins.refusal, "floppy")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with names and sizes that are hard for FAT."""
    tree = tmp_path / "tree"
    (tree / "a dir" / "sub").mkdir(parents=True)
    (tree / "many").mkdir()
    names = [
        "UPPER.TXT",
        "lower.txt",
        ".hidden",
        "two.dots.tar.gz",
        "Ü 日本語.txt",
        "n" * 240 + ".c",
    ]
    for name in names:
        (tree / name).write_text(name)
    (tree / "a dir" / "large").write_bytes(os.urandom(3 * MIB + 1))
    (tree / "a dir" / "sub" / "whole").write_bytes(os.urandom(8192))
    (tree / "empty").touch()
    for number in range(500):
        (tree / "many" / f"a name with a number, {number}").write_text(str(number))
    return tree


def image(
    tmp_path: Path, *arguments: str | Path, command: tuple[str, ...] = tuple(NBDFORK)
) -> Path:
    """Return a copy of the disk, made by a client."""
    need("nbdcopy")
    path = tmp_path / f"image-{Path(command[0]).name}"
    output(*command, "-r", "-U", "-", "floppy", *arguments, "--run", f'nbdcopy "$uri" {path}')
    return path


def extracted(path: Path) -> dict[str, bytes]:
    """Return the files that mtools find on an image, by name."""
    need("mcopy")
    found = path.parent / f"found-{path.name}"
    found.mkdir()
    output("mcopy", "-s", "-n", "-i", f"{path}@@1M", "::/*", found, env=MTOOLS)
    return files_below(found)


def files_below(directory: Path) -> dict[str, bytes]:
    found = directory.rglob("*")
    return {str(p.relative_to(directory)): p.read_bytes() for p in found if p.is_file()}


def check(path: Path) -> str:
    """Let fsck.fat look at the partition; return what it says."""
    need("fsck.fat")
    partition = path.with_suffix(".partition")
    with path.open("rb") as disk, partition.open("wb") as copy:
        disk.seek(MIB)
        shutil.copyfileobj(disk, copy)
    return output("fsck.fat", "-vn", partition)


def test_what_other_programs_find(tmp_path: Path, tree: Path) -> None:
    disk = image(tmp_path, tree, "label=My Disk")
    assert extracted(disk) == files_below(tree)
    said = check(disk)
    assert re.search(r"51[0-9] files, \d+/65541 clusters", said)
    assert not re.search("wrong|differ|corrupt|bad|orphan", said, re.IGNORECASE)
    assert "MY DISK" in output("mdir", "-i", f"{disk}@@1M", "::", env=MTOOLS)


def test_the_same_facts_and_partition_as_with_nbdkit(tmp_path: Path, tree: Path) -> None:
    """No program here reads the file system that nbdkit makes of a small directory."""
    need("nbdkit", "nbdinfo")
    starts, facts = [], []
    for command in (("nbdkit",), tuple(NBDFORK)):
        disk = image(tmp_path, tree, command=command)
        starts.append(disk.read_bytes()[446:462])
        show = 'nbdinfo --json "$uri"'
        text = output(*command, "-U", "-", "floppy", tree, "--run", show)
        export = json.loads(text)["exports"][0]
        facts.append([export[f"can_{key}"] for key in ("flush", "fua", "trim", "multi_conn")])
        assert export["is_read_only"]
    assert facts[1] == facts[0] == [False, False, False, True]
    assert starts[1][8:12] == starts[0][8:12]
    assert starts[1][4] == starts[0][4]


def test_the_partition_table(tmp_path: Path, tree: Path) -> None:
    need("partx")
    listed = output("partx", "-g", "-o", "NR,START,TYPE,SCHEME", image(tmp_path, tree))
    assert listed.split() == ["1", "2048", "0xc", "dos"]


@pytest.mark.parametrize(
    ("size", "cluster"), [(100 * MIB, 512), (600 * MIB, 4096), (300 << 30, 32768)]
)
def test_a_size(tmp_path: Path, tree: Path, size: int, cluster: int) -> None:
    need("fsck.fat", "nbdcopy")
    assert opened(tree, f"size={size}").get_size() == size
    disk = image(tmp_path, tree, f"size={size}") if size < 1 << 30 else None
    if disk is not None:
        assert f"{cluster:10} bytes per cluster" in check(disk)
        assert extracted(disk) == files_below(tree)
    boot = bytes(opened(tree, f"size={size}").pread(512, MIB))
    assert boot[13] * 512 == cluster


def test_free_space_is_a_hole(tmp_path: Path, tree: Path) -> None:
    export = opened(tree, "size=1T")
    size = export.get_size()
    found = list(export.extents(size, 0, 0))
    assert sum(extent.length for extent in found) == size
    data = sum(extent.length for extent in found if not extent.type)
    assert data < 64 * MIB
    offset, length, kind = found[-1]
    assert (offset + length, kind) == (size, HOLE | ZERO)


def test_tables_are_the_same_read_at_once_or_byte_by_byte() -> None:
    table = fat32.Table([3, 10, 11, 40])
    whole = table.read(50 * 4, 0)
    words = [int.from_bytes(whole[n : n + 4], "little") for n in range(0, 200, 4)]
    last = 0x0FFFFFFF
    assert words[:12] == [0x0FFFFFF8, last, last, 4, 5, 6, 7, 8, 9, last, last, 12]
    assert words[39:42] == [last, 0, 0]
    for start in range(200):
        assert table.read(1, start) == whole[start : start + 1]
        assert table.read(200 - start, start) == whole[start:]


def test_a_file_that_changes(tmp_path: Path) -> None:
    directory = tmp_path / "files"
    directory.mkdir()
    path = directory / "file"
    path.write_bytes(b"content" * 1000)
    export = opened(directory)
    offset = next(e.offset for e in export.extents(export.get_size() - 3 * MIB, 3 * MIB, 0))
    start = next(n for n in range(MIB, 4 * MIB, 512) if export.pread(7, n) == b"content")
    assert offset == 3 * MIB
    assert export.pread(7000, start) == path.read_bytes()
    path.write_bytes(b"new")
    with pytest.raises(OSError, match="has become shorter") as caught:
        export.pread(512, start)
    assert caught.value.errno == errno.EIO
    path.unlink()
    with pytest.raises(OSError, match="is gone") as caught:
        export.pread(512, start)
    assert caught.value.errno == errno.EIO
    path.mkdir()
    with pytest.raises(OSError, match="no longer a regular file"):
        export.pread(512, start)


def test_names() -> None:
    names = Names()
    found = [
        names.choose(name) for name in ("A.TXT", "a.txt", "a b.c", "AB~1.C", "x. ", 'a"b', "y~1")
    ]
    assert found == [
        ("", b"A       TXT"),
        ("a_1.txt", b"A_1~1   TXT"),
        ("a b.c", b"AB~1    C  "),
        ("AB~1_1.C", b"AB~1_1~2C  "),
        ("x_", b"X_~1       "),
        ("a_b", b"A_B~1      "),
        ("y~1", b"Y~1~1      "),
    ]
    names = Names()
    long = [names.choose("Ü" * 300 + f"{number}.txt") for number in range(3)]
    assert all(len(name.long) <= 255 and name.long.endswith(".txt") for name in long)
    shorts = {names.choose(f"long name {number}.txt").short for number in range(3000)}
    assert len(shorts) == 3000


def test_times_that_fat_does_not_know(tmp_path: Path) -> None:
    """What the file system of the tests cannot keep either, it makes something smaller of."""
    for seconds in (-(10**17), 0, 10**10, 10**17):
        entry = fat32.file_entries(Names().choose("A"), 2, 1, seconds)
        date = int.from_bytes(entry[24:26], "little")
        assert (date >> 9) + 1980 == (1980 if seconds < 1 else 2107)
    os.utime(tmp_path, (0, 10**11))
    assert opened(tmp_path).get_size()


def test_what_is_no_file_is_left_out(tmp_path: Path, tree: Path) -> None:
    (tree / "link").symlink_to("empty")
    os.mkfifo(tree / "fifo")
    assert not {"link", "fifo"} & extracted(image(tmp_path, tree)).keys()


def test_mistakes(tmp_path: Path, tree: Path) -> None:
    assert "there is no directory" in refusal(tree / "empty")
    for label in ("twelve chars", "", " blank", "ß"):
        assert "up to 11" in refusal(tree, f"label={label}")
    assert "too small" in refusal(tree, "size=1M")
    least = re.search(r"size=(\d+)$", refusal(tree, "size=33M"))
    assert least is not None
    assert opened(tree, f"size={least[1]}").get_size() == int(least[1])
    assert "too small" in refusal(tree, f"size={int(least[1]) - 512}")
    assert "2 TiB" in refusal(tree, "size=3T")
    os.truncate(tree / "empty", 1 << 32)
    assert "smaller than 4 GiB" in refusal(tree)


def test_clients_cannot_write(tree: Path) -> None:
    need("qemu-io")
    write = 'qemu-io -f raw -r -c "read 0 64k" "$uri" && ! qemu-io -f raw -c "write 0 512" "$uri"'
    done = run(*NBDFORK, "-U", "-", "floppy", tree, "--run", write)
    assert done.returncode == 0, done
