"""The filters about names and connections: exportname and multi-conn."""

import errno
from pathlib import Path
from typing import Any

import pytest

from nbdfork.plugin import ExportInfo, Support
from tests.support.beside import both
from tests.support.disks import SIZE, Disk, exports, gate
from tests.support.harness import need, refused, run
from tests.support.libnbd import connected, libnbd
from tests.support.noise import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "disks"
    made.mkdir()
    for number, name in enumerate(("a", "b", "c"), 1):
        (made / name).write_bytes(noise(4096) * number)
    return made


def listing(uri: str) -> Any:
    """Return what nbdinfo --list tells of names and descriptions."""
    done = run("nbdinfo", "--list", uri)
    wanted = ("export=", "description:", "export-size:")
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith(wanted)]
    parts = "\n".join(lines).split("export=")
    return done.returncode, sorted(map(str.strip, parts))  # nbdkit has them in no order


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["default-export=b"],
        ["exportname-list=empty"],
        ["exportname-list=error"],
        ["exportname-list=defaultonly", "default-export=c"],
        ["exportname-list=explicit", "exportname=c", "exportname=a"],
        ["exportdesc=none"],
        ["exportdesc=fixed:a disk"],
        ["exportdesc=script:echo about $name"],
    ],
)
def test_exportname_lists_as_nbdkit_does(
    arguments: list[str], folder: Path, tmp_path: Path
) -> None:
    need("nbdkit", "nbdinfo")
    theirs, ours = both(
        tmp_path, listing, "--filter=exportname", "file", f"dir={folder}", *arguments
    )
    assert ours == theirs


@pytest.mark.parametrize("name", ["a", "b", "x"])
def test_exportname_opens_as_nbdkit_does(name: str, folder: Path, tmp_path: Path) -> None:
    need("nbdkit")

    def size(uri: str) -> Any:
        nbd = libnbd()
        handle = nbd.NBD()
        handle.set_export_name(name)
        path = uri.partition("socket=")[2]
        try:
            handle.connect_unix(path)
        except nbd.Error:
            return None
        return handle.get_size()

    arguments = ("default-export=b", "exportname-strict=true", "exportname=a", "exportname=b")
    theirs, ours = both(tmp_path, size, "--filter=exportname", "file", f"dir={folder}", *arguments)
    assert ours == theirs


def test_a_script_that_fails_describes_nothing() -> None:
    catalogue = exports(Disk(bytes(SIZE)), "exportname", "exportdesc=script:exit 3")
    with refused(errno.EIO, "status 3"):
        catalogue.listed()
    catalogue = exports(Disk(bytes(SIZE)), "exportname", 'exportdesc=script:printf "%s" "<$name>"')
    assert catalogue.listed() == [ExportInfo(None, "<>")]


# -- multi-conn -------------------------------------------------------------------------------


class Lazy(Disk):
    """a disk each connection of which has FUA, and remembers its flushes"""

    def can_fua(self) -> Support:
        return Support.NATIVE

    def open(self, export_name: str, read_only: bool) -> "Lazy":
        made = Lazy(bytes(self.content))
        OPENED.append(made)
        return made


OPENED: list[Lazy] = []


def flushes(*arguments: str, names: tuple[str, str] = ("", "")) -> list[int]:
    """Return how often two connections were flushed when one has written, the other read, and
    both have asked for a flush.
    """
    OPENED.clear()
    found = exports(Lazy(noise(SIZE)), "multi-conn", *arguments)
    one, two = (found.open(name) for name in names)
    one.pwrite(memoryview(b"data"), 0, fua=False)
    two.pread(10, 0)
    one.flush()
    two.flush()
    return [disk.asked.count("flush") for disk in OPENED]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["multi-conn-mode=emulate"], [1, 1]),
        (["multi-conn-mode=emulate", "multi-conn-track-dirty=fast"], [1, 1]),
        (["multi-conn-mode=emulate", "multi-conn-track-dirty=off"], [2, 2]),
        (["multi-conn-mode=plugin"], [1, 1]),
        (["multi-conn-mode=unsafe", "multi-conn-track-dirty=fast"], [1, 0]),
        (["multi-conn-mode=disable", "multi-conn-track-dirty=off"], [1, 1]),
    ],
)
def test_which_connections_are_flushed(arguments: list[str], expected: list[int]) -> None:
    assert flushes(*arguments) == expected


def test_connections_to_other_exports_can_be_left_alone() -> None:
    arguments = ("multi-conn-mode=emulate", "multi-conn-track-dirty=off")
    assert flushes(*arguments, "multi-conn-exportname=true", names=("a", "b")) == [1, 1]


def test_fua_of_one_connection_is_a_flush_of_all() -> None:
    OPENED.clear()
    found = exports(Lazy(noise(SIZE)), "multi-conn", "multi-conn-mode=emulate")
    one, two = found.open(""), found.open("")
    two.pread(10, 0)
    one.pwrite(memoryview(b"data"), 0, fua=True)
    assert [disk.asked for disk in OPENED] == [["pwrite", "flush"], ["pread", "flush"]]
    two.close()
    one.pwrite(memoryview(b"data"), 0, fua=True)
    assert OPENED[1].asked == ["pread", "flush"]


def test_a_disk_that_cannot_flush_is_not_emulated() -> None:
    class Hasty(Disk):
        def can_flush(self) -> bool:
            return False

    with refused(errno.EINVAL, "multi-conn-mode=emulate"):
        gate(Hasty(bytes(SIZE)), "multi-conn", "multi-conn-mode=emulate")
    assert not gate(Hasty(bytes(SIZE)), "multi-conn").can_multi_conn


def test_a_client_of_two_connections_reads_what_it_has_written(tmp_path: Path) -> None:
    need("nbdkit")

    def use(uri: str) -> Any:
        with connected(uri) as one, connected(uri) as two:
            one.pwrite(b"x" * 512, 0)
            one.flush()
            return one.can_multi_conn(), two.pread(512, 0)

    theirs, ours = both(tmp_path, use, "--filter=multi-conn", "memory", "1M")
    assert ours == theirs == (True, b"x" * 512)
