"""The file plugin on what is open already, and with little use of the system's memory."""

import os
from pathlib import Path

import pytest

from tests.support.harness import NBDFORK, need, output, run
from tests.support.libnbd import connected
from tests.support.plugins import opened, refusal


def test_a_file_that_is_open_is_served_in_the_background_too(tmp_path: Path) -> None:
    path, pidfile = tmp_path / "disk", tmp_path / "pid"
    path.write_bytes(b"x" * 4096)
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    socket = tmp_path / "socket"
    try:
        command = [*NBDFORK, "-U", str(socket), "-P", str(pidfile), "file", f"fd={fd}"]
        output(*command, pass_fds=[fd])
        with connected(f"nbd+unix:///?socket={socket}") as client:
            client.pwrite(b"y" * 512, 512)
            assert client.pread(1024, 256) == b"x" * 256 + b"y" * 512 + b"x" * 256
        assert os.pread(fd, 512, 512) == b"y" * 512
    finally:
        os.kill(int(pidfile.read_text()), 15)
        os.close(fd)


def test_what_is_open_for_reading_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(512))
    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    export = opened("file", f"fd={fd}")
    assert (export.get_size(), export.can_write()) == (512, False)
    os.close(fd)


def test_the_files_of_a_directory_that_is_open_are_served(tmp_path: Path) -> None:
    need("nbdinfo")
    (tmp_path / "a").write_bytes(b"a" * 512)
    (tmp_path / "b").write_bytes(b"b" * 1024)
    fd = os.open(tmp_path, os.O_RDONLY)
    show = 'nbdinfo --list "$uri"; nbdinfo --size "nbd+unix:///b?socket=$unixsocket"'
    shown = output(*NBDFORK, "-U", "-", "file", f"dirfd={fd}", "--run", show, pass_fds=[fd])
    assert 'export="a"' in shown
    assert shown.splitlines()[-1] == "1024"
    os.close(fd)


@pytest.mark.parametrize("key", ["fd", "dirfd"])
def test_a_number_that_nothing_is_open_as(key: str) -> None:
    assert f"{key}=999999: nothing is open as this number" in refusal("file", f"{key}=999999")
    assert "the others are the server's" in refusal("file", f"{key}=2")


def test_a_descriptor_of_something_else(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    assert "neither a regular file" in refusal("file", f"fd={reader}")
    os.close(reader)
    os.close(writer)


def test_there_is_one_way(tmp_path: Path) -> None:
    message = "give one of file=FILENAME, dir=DIRECTORY, fd=NUMBER and dirfd=NUMBER"
    assert message in refusal("file")
    assert message in refusal("file", str(tmp_path), "fd=9")


def pages(path: Path) -> int:
    """Return how many pages of the file are in memory."""
    words = output("fincore", "--bytes", "--noheadings", "--output", "PAGES", path).split()
    return int(words[0])


@pytest.mark.parametrize("word", ["reduce-memory-pressure=true", "cache=none", "cache=default"])
def test_what_was_read_and_written_is_dropped(tmp_path: Path, word: str) -> None:
    need("fincore", "findmnt")
    if run("findmnt", "-n", "-o", "FSTYPE", "-T", tmp_path).stdout.strip() == "tmpfs":
        pytest.skip("the memory is where the file is")
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    os.sync()
    export = opened("file", str(path), word)
    export.pwrite(memoryview(b"z" * 65536), 0, 0)
    export.flush()
    assert bytes(export.pread(65536, 0)) == b"z" * 65536
    assert export.view(4096, 0) is None or word == "cache=default"
    export.close()
    assert (pages(path) <= 16) == (word != "cache=default")
