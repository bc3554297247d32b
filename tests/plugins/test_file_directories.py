"""Directories of the file plugin: which of their files can be had, and where links lead."""

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nbdfork.plugin import ConfigError, Plugin
from tests.support.harness import SECONDS, Server, need, output, run
from tests.support.plugins import plugin

SIZE = 1 << 20


def test_file_directory(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(name.encode() * 512)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "subdirectory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    made = plugin("file", f"dir={tmp_path}")
    assert [export.name for export in made.list_exports(True)] == ["a", "b", "link"]
    export = made.open("b", True)
    assert export.pread(512, 0) == b"b" * 512
    export.close()
    for name in ("", "c", "..", "../x", "fifo", "subdirectory", "dangling"):
        with pytest.raises(FileNotFoundError):
            made.open(name, False)


def names(made: Plugin) -> list[str]:
    return [export.name or "" for export in made.list_exports(True)]


@pytest.mark.parametrize("links", ["follow", "beneath", "refuse"])
def test_what_is_no_disk_in_a_directory_holds_up_nobody(tmp_path: Path, links: str) -> None:
    """A fifo without a writer, devices that wait or have no end, and links to them and to nowhere,
    for a server that starts, one that lists, and clients that name them.
    """
    need("nbdinfo")
    (tmp_path / "disk").write_bytes(bytes(SIZE))
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    others = {"to-fifo": "fifo", "nowhere": "missing", "round": "round", "device": "/dev/zero"}
    others |= {"terminal": "/dev/tty", "random": "/dev/random", "directory": "/"}
    for name, target in others.items():
        (tmp_path / name).symlink_to(target)
    with Server("file", f"dir={tmp_path}", f"dir-links={links}") as server:
        listed = output("nbdinfo", "--list", server.uri)
        assert re.findall(r'^export="(.*)":', listed, re.MULTILINE) == ["disk"]
        for name in ("fifo", "socket", *others):
            uri = server.uri.replace("///", f"///{name}")
            done = run("nbdinfo", uri, timeout=SECONDS)
            assert "No such file or directory" in done.stderr, name
    listener.close()


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """A directory with a file, and links that stay in it, that lead out and that lead nowhere."""
    (tmp_path / "secret").write_bytes(b"s" * 512)
    inside = tmp_path / "inside"
    (inside / "deeper").mkdir(parents=True)
    (inside / "deeper" / "x").write_bytes(b"d" * 512)
    (inside / "a").write_bytes(b"a" * 512)
    for name, target in {
        "to-a": "a",
        "to-deeper": "deeper/x",
        "around": "../inside/a",
        "up": "../secret",
        "absolute": str(tmp_path / "secret"),
        "absolute-a": str(inside / "a"),
        "nowhere": "missing",
        "loop": "loop",
        "magic": "/proc/self/cwd",
        "device": "/dev/zero",
    }.items():
        (inside / name).symlink_to(target)
    os.mkfifo(inside / "fifo")
    (inside / "to-fifo").symlink_to("fifo")
    return inside


FOLLOWED = {
    "follow": ["a", "absolute", "absolute-a", "around", "to-a", "to-deeper", "up"],
    "beneath": ["a", "to-a", "to-deeper"],
    "refuse": ["a"],
}


@pytest.mark.parametrize("policy", FOLLOWED)
def test_links_of_a_directory(policy: str, links: Path) -> None:
    made = plugin("file", f"dir={links}", f"dir-links={policy}")
    assert names(made) == FOLLOWED[policy]
    for path in links.iterdir():
        if path.name in FOLLOWED[policy]:
            made.open(path.name, False).close()
        else:
            with pytest.raises(FileNotFoundError):  # at once, a pipe without a writer, too
                made.open(path.name, False)
            with pytest.raises(FileNotFoundError):
                made.open(path.name, True)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_links_where_the_kernel_cannot_tell(
    number: int, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("nbdfork.plugins._parts.folder._openat2", refuse)
    made = plugin("file", f"dir={links}", "dir-links=beneath")
    assert names(made) == ["a"]
    made.open("a", False).close()
    for name in ("to-a", "up", "nowhere", "fifo"):
        with pytest.raises(FileNotFoundError):
            made.open(name, False)


@pytest.mark.parametrize(("user", "policy"), [(0, "beneath"), (1000, "follow")])
def test_links_for_a_server_that_root_starts(
    user: int, policy: str, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    made = plugin("file", f"dir={links}")
    monkeypatch.undo()  # it is somebody else by now
    assert names(made) == FOLLOWED[policy]


def test_a_directory_that_is_exchanged_all_the_time(links: Path) -> None:
    """What may be opened is decided by what is opened: a secret is never seen."""
    made = plugin("file", f"dir={links}", "dir-links=beneath")
    swapping = (
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "while os.getppid() == int(sys.argv[2]):\n"
        "    for target in ('a', '../secret', 'fifo', '/dev/zero'):\n"
        "        os.symlink(target, 'new')\n"
        "        os.rename('new', 'it')\n"
    )
    (links / "it").symlink_to("a")
    command = [sys.executable, "-c", swapping, str(links), str(os.getpid())]
    seen = refused = 0
    with subprocess.Popen(command) as other:
        try:
            for _ in range(20_000):
                try:
                    export = made.open("it", True)
                except FileNotFoundError:
                    refused += 1
                    continue
                assert export.pread(512, 0) == b"a" * 512
                export.close()
                seen += 1
                if min(seen, refused) >= 300:
                    break
        finally:
            other.kill()
    assert seen
    assert refused


def test_links_are_about_directories(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SIZE))
    with pytest.raises(ConfigError, match="dir-links= is about the links in a directory"):
        plugin("file", str(disk), "dir-links=refuse")
    with pytest.raises(ConfigError, match="expected one of: follow, beneath, refuse"):
        plugin("file", f"dir={disk.parent}", "dir-links=some")
