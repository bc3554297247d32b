"""The system calls that the standard library lacks."""

import mmap
import os
import signal

import pytest

from nbdfork.server import linux
from nbdfork.server.linux import SharedMemory

PAGE = mmap.PAGESIZE


def memory(pages: int) -> int:
    fd = os.memfd_create("test")
    os.ftruncate(fd, pages * PAGE)
    return fd


def test_a_child_follows_its_parent() -> None:
    """The grandchild is killed when the child, which is its parent, ends."""
    ready, told = os.pipe()
    middle = os.fork()
    if middle == 0:
        parent = os.getpid()
        if os.fork() == 0:
            alive = linux.die_with_parent(signal.SIGKILL, parent)
            os.write(told, b"y" if alive else b"n")
            signal.pause()
        os.read(ready, 1)
        os._exit(0)
    os.close(told)
    os.waitpid(middle, 0)
    assert os.read(ready, 1) == b""  # nobody holds the other end any more
    os.close(ready)


def test_a_parent_that_is_dead_already_is_noticed() -> None:
    child = os.fork()
    if child == 0:
        os._exit(linux.die_with_parent(signal.SIGTERM, 1 << 22))
    assert os.waitpid(child, 0)[1] == 0


def test_memory_is_shared_page_by_page() -> None:
    fd = memory(3)
    whole = SharedMemory(fd, 0, 3 * PAGE, writable=False)
    second = SharedMemory(fd, PAGE, PAGE, writable=True)
    os.close(fd)
    second.bytes[:5] = b"hello"
    assert bytes(whole.bytes[PAGE : PAGE + 5]) == b"hello"
    child = os.fork()
    if child == 0:
        second.bytes[0:1] = b"H"
        os._exit(0)
    os.waitpid(child, 0)
    assert bytes(whole.bytes[PAGE : PAGE + 5]) == b"Hello"
    with pytest.raises(TypeError):
        whole.bytes[0] = 1
    whole.close()
    second.close()


def test_memory_can_be_kept_from_children() -> None:
    fd = memory(1)
    kept = SharedMemory(fd, 0, PAGE, writable=True)
    os.close(fd)
    kept.keep_from_children()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        kept.bytes[0] = 1
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV
    kept.close()


def test_what_the_system_refuses_is_an_error() -> None:
    fd = memory(1)
    with pytest.raises(OSError, match="mmap: Invalid argument"):
        SharedMemory(fd, 1, PAGE, writable=True)
    os.close(fd)
    with pytest.raises(OSError, match="mmap: Bad file descriptor"):
        SharedMemory(fd, 0, PAGE, writable=True)


def test_a_signal_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="prctl: Invalid argument"):
        linux.die_with_parent(1000, os.getppid())  # type: ignore[arg-type]
