"""The parent process is watched through a descriptor."""

import os
import signal

import pytest

from nbdfork.server import parent
from nbdfork.server.errors import StartupError
from tests.support.harness import is_readable


def test_the_parent_of_this_process_is_there() -> None:
    fd = parent.watch(os.getppid())
    assert not is_readable(fd)
    os.close(fd)


def test_one_that_has_ended_is_told_of() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(StartupError, match="the parent has ended already"):
        parent.watch(child)


def test_another_process_of_the_same_number_is_no_parent() -> None:
    with pytest.raises(StartupError, match="the parent has ended already"):
        parent.watch(os.getpid())


def test_a_parent_outside_of_our_namespace() -> None:
    with pytest.raises(StartupError, match="in another PID namespace"):
        parent.watch(0)


def test_a_system_that_cannot_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", fail)
    with pytest.raises(StartupError, match="pidfd_open: Function not implemented"):
        parent.watch(os.getppid())


def test_its_end_is_a_signal_where_there_is_no_loop() -> None:
    seen, told = os.pipe()
    child = os.fork()
    if child == 0:
        watched, end = os.pipe()
        signal.signal(signal.SIGTERM, lambda *_: os._exit(os.write(told, b"x")))
        parent.stop_with(watched, signal.SIGTERM)
        os.close(end)
        signal.pause()
    os.close(told)
    assert os.read(seen, 1) == b"x"
    os.waitpid(child, 0)
    os.close(seen)
