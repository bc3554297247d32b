"""Children: which of them have ended, and with which status."""

import os
import resource
import signal
from collections.abc import Callable

import psutil

from nbdfork.server import processes
from tests.support.harness import eventually


def child(what: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # or it would outlive a test that fails
        try:
            what()
        finally:
            os._exit(9)
    return pid


def reaped(pids: set[int], count: int) -> dict[int, int | None]:
    found: dict[int, int | None] = {}

    def all_of_them() -> bool:
        found.update(processes.reap(pids - found.keys()))
        return len(found) >= count

    eventually(all_of_them)
    return found


def test_each_is_reaped_with_its_status() -> None:
    good, bad = child(lambda: os._exit(0)), child(lambda: os._exit(7))
    killed, alive = child(signal.pause), child(signal.pause)
    processes.send(killed, signal.SIGKILL)
    pids = {good, bad, killed, alive}
    assert reaped(pids, 3) == {good: 0, bad: 7, killed: -signal.SIGKILL}
    assert list(processes.reap(pids)) == []
    processes.send(alive, signal.SIGTERM)
    processes.wait([alive, good], 15)
    assert not psutil.pid_exists(alive)


def test_children_are_looked_after_without_a_descriptor() -> None:
    """A supervisor that cannot open anything more still frees the places of those that end."""
    killed, ended = child(signal.pause), child(lambda: None)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        processes.kill(killed)
        assert reaped({killed, ended}, 2) == {killed: -signal.SIGKILL, ended: 9}
        processes.wait([killed, ended], 15)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_waiting_has_a_limit() -> None:
    alive = child(signal.pause)
    processes.wait([alive], 0)
    assert psutil.Process(alive).is_running()
    processes.kill(alive)
    processes.wait([alive], 15)
    assert not psutil.pid_exists(alive)


def test_a_child_of_somebody_else_hides_no_other() -> None:
    foreign, ours = child(lambda: os._exit(0)), child(lambda: os._exit(3))
    eventually(lambda: psutil.Process(foreign).status() == psutil.STATUS_ZOMBIE)
    assert reaped({ours}, 1) == {ours: 3}
    assert list(processes.reap({ours})) == []  # it was reaped before
    assert os.waitpid(foreign, 0) == (foreign, 0)  # it was left to whoever wants it


def test_what_a_killed_child_has_started_is_killed() -> None:
    reader, writer = os.pipe()

    def lead() -> None:
        os.setpgid(0, 0)
        child(signal.pause)
        os.write(writer, b"x")
        signal.pause()

    pid = child(lead)
    os.close(writer)
    assert os.read(reader, 2) == b"x"
    processes.send(pid, signal.SIGKILL)
    assert reaped({pid}, 1) == {pid: -signal.SIGKILL}
    assert os.read(reader, 1) == b""  # the other one has ended, too
    os.close(reader)


def test_who_has_ended_hears_nothing() -> None:
    pid = child(lambda: os._exit(0))
    os.waitpid(pid, 0)
    processes.send(pid, signal.SIGTERM)
    processes.wait([pid], 0)
    assert list(processes.reap({pid})) == []
