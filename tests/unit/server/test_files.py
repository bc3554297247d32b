"""Files of the server's own: whole, and not where a link of somebody else's leads."""

import errno
import os
from pathlib import Path

import pytest

from nbdfork.server.files import open_own, write_own

WRITE = os.O_WRONLY | os.O_CREAT


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if root did it, whoever runs the tests."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that others can write to."""
    tmp_path.chmod(0o777)
    return tmp_path


def refused(path: Path) -> bool:
    with pytest.raises(OSError, match="link") as caught:
        write_own(str(path), b"7\n")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="link"):
        open_own(str(path), WRITE)
    return True


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("a longer text that was there")
    with path.open() as old:
        write_own(str(path), b"7\n")
        assert old.read() == "a longer text that was there"
    assert path.read_text() == "7\n"
    assert os.listdir(tmp_path) == ["pid"]


def test_root_does_not_follow_the_links_of_others(root: None, shared: Path) -> None:
    target = shared / "shadow"
    target.write_text("precious")
    link = shared / "pid"
    link.symlink_to(target)
    assert refused(link)
    assert target.read_text() == "precious"
    link.unlink()
    link.symlink_to(shared / "new")
    assert refused(link)
    assert not (shared / "new").exists()


def test_a_user_may_use_links(monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (shared / "link").symlink_to(shared / "pid")
    write_own(str(shared / "link"), b"7\n")
    assert (shared / "pid").read_text() == "7\n"
    assert (shared / "link").is_symlink()


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    write_own("/dev/null", b"7\n")
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_own(str(fifo), b"7\n")
    assert os.read(reader, 10) == b"7\n"
    os.close(reader)


def test_a_full_disk_leaves_what_was_there() -> None:
    with pytest.raises(OSError, match="No space"):
        write_own("/dev/full", b"7\n")
