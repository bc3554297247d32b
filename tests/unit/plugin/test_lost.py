"""Writes that the system may have lost, and who is told."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbdfork.plugin import FUA, DescriptorExport, LostWrites
from nbdfork.plugin.lost import Watch
from tests.support.harness import refused

FAILED = OSError(errno.EIO, "the disk is broken")


def is_told(watch: Watch) -> bool:
    """Return whether a client is told of an error though its own flush has succeeded."""
    try:
        watch.check()
    except OSError as error:
        return error.errno == errno.EIO
    return False


def opened(place: Path, name: str = "disk") -> int:
    return os.open(place / name, os.O_RDWR | os.O_CREAT)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = opened(tmp_path)
    yield fd
    os.close(fd)


def test_everybody_is_told_once(fd: int) -> None:
    lost = LostWrites()
    first, second = Watch(lost, fd), Watch(lost, fd)
    assert not is_told(first)
    first.failed(FAILED)
    second.failed(FAILED)  # the system tells each open file of the same failure
    late = [Watch(lost, fd) for _ in range(3)]
    assert [is_told(watch) for watch in (first, second, *late)] == [False, False, True, True, True]
    assert not any(is_told(watch) for watch in (first, second, *late))


def test_another_failure_is_another_one(fd: int, caplog: pytest.LogCaptureFixture) -> None:
    lost = LostWrites()
    first, second = Watch(lost, fd), Watch(lost, fd)
    for _ in range(2):
        first.failed(FAILED)
        assert is_told(second)
        assert not is_told(second)
    assert caplog.text.count("until the server is started anew") == 2


def test_what_says_nothing_of_writes_is_not_remembered(fd: int) -> None:
    lost = LostWrites()
    Watch(lost, fd).failed(OSError(errno.EINVAL, "this cannot be flushed"))
    assert not is_told(Watch(lost, fd))


def test_files_are_told_apart(tmp_path: Path) -> None:
    lost = LostWrites()
    one, two = opened(tmp_path, "one"), opened(tmp_path, "two")
    Watch(lost, one).failed(FAILED)
    assert not is_told(Watch(lost, two))
    assert is_told(Watch(lost, one))
    os.close(one)
    os.close(two)


def test_of_very_many_files_it_is_enough_to_know_that_there_are_more(tmp_path: Path) -> None:
    lost = LostWrites()
    files = [opened(tmp_path, str(number)) for number in range(103)]
    for fd in files[:100]:
        Watch(lost, fd).failed(FAILED)
    assert not is_told(Watch(lost, files[100]))
    for fd in files[100:102]:
        Watch(lost, fd).failed(FAILED)
    assert is_told(Watch(lost, files[102]))
    again = Watch(lost, files[7])
    assert is_told(again)
    again.failed(FAILED)
    assert is_told(Watch(lost, files[7]))
    for fd in files:
        os.close(fd)


def test_other_processes_know(fd: int) -> None:
    lost = LostWrites()
    pid = os.fork()
    if pid == 0:
        Watch(lost, fd).failed(FAILED)
        os._exit(0)
    os.waitpid(pid, 0)
    assert is_told(Watch(lost, fd))


def test_every_way_to_flush_tells_of_it(fd: int) -> None:
    lost = LostWrites()
    os.ftruncate(fd, 65536)
    exports = [DescriptorExport(os.dup(fd), writable=True, lost=lost) for _ in range(4)]
    reader = DescriptorExport(os.dup(fd), writable=False, lost=lost)
    Watch(lost, fd).failed(FAILED)
    exports[0].pwrite(memoryview(b"x"), 0, 0)
    with refused(errno.EIO):
        exports[0].flush()
    with refused(errno.EIO):
        exports[1].pwrite(memoryview(b"x"), 0, FUA)
    with refused(errno.EIO):
        exports[2].trim(4096, 0, FUA)
    with refused(errno.EIO):
        exports[3].zero(4096, 0, FUA)
    for export in (*exports, reader):
        export.flush()
        export.close()


def test_a_disk_that_is_full_has_lost_nothing(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = LostWrites()
    export = DescriptorExport(os.dup(fd), writable=True, lost=lost)
    for number, is_lost in ((errno.ENOSPC, False), (errno.EIO, True)):

        def fail(*arguments: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", fail)
            with refused(number):
                export.pwrite(memoryview(b"x"), 0, FUA)
        assert is_told(Watch(lost, fd)) == is_lost
    export.close()
