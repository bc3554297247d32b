"""Descriptors and the pidfile; how a process detaches is in the tests with clients."""

import os
from pathlib import Path

import pytest

from nbdfork.server import daemon
from nbdfork.server.errors import StartupError


def test_open_descriptors_are_known() -> None:
    before = daemon.open_descriptors()
    fd = os.open("/dev/null", os.O_RDONLY)
    assert daemon.open_descriptors() - before == {fd}
    assert daemon.is_open(fd)
    os.close(fd)
    assert not daemon.is_open(fd)
    assert daemon.open_descriptors() == before


def test_a_pidfile_has_the_number_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("of an earlier server")
    daemon.write_pidfile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_pidfile_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none/pid", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(StartupError, match=f"cannot write the pidfile {path}: {reason}"):
            daemon.write_pidfile(str(path))
    with pytest.raises(StartupError, match="/dev/full: No space left on device"):
        daemon.write_pidfile("/dev/full")
    assert Path("/dev/full").exists()


def test_only_a_pidfile_of_ones_own_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    daemon.remove_pidfile(str(path), 7)
    for text, stays in (("8\n", True), ("77\n", True), ("", True), ("7\n", False)):
        path.write_text(text)
        daemon.remove_pidfile(str(path), 7)
        assert path.exists() is stays, text
    daemon.remove_pidfile("/dev/null", 7)


def test_closed_standard_streams_are_opened_on_the_null_device() -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(0)
            os.close(2)
            closed = daemon.open_standard_streams()
            null = os.stat("/dev/null")
            led = [os.path.samestat(os.fstat(fd), null) for fd in (0, 2)]
            status = 0 if (closed, led) == ({0, 2}, [True, True]) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
