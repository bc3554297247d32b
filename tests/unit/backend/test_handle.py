"""The handle on the server: one stop for all processes, and the client of the thread."""

import os

import pytest

from nbdfork.backend.client import Client, set_serving
from nbdfork.backend.handle import Handle


class Stream:
    def fileno(self) -> int:
        return -1


def test_a_server_is_stopped_once() -> None:
    handle = Handle()
    stops: list[str] = []
    handle.attach(lambda: stops.append("stop"), 7)
    assert handle.ending == 7
    handle.stop()
    handle.stop()
    assert stops == ["stop"]


def test_once_by_all_processes_together() -> None:
    handle = Handle()
    stops: list[str] = []
    child = os.fork()
    if child == 0:
        handle.attach(lambda: None, -1)
        handle.stop()
        os._exit(0)
    os.waitpid(child, 0)
    handle.attach(lambda: stops.append("stop"), -1)
    handle.stop()
    assert stops == []


def test_a_stop_that_comes_too_early_is_remembered() -> None:
    handle = Handle()
    stops: list[str] = []
    handle.stop()
    handle.attach(lambda: stops.append("stop"), -1)
    assert stops == []
    handle.stop_if_wanted()
    assert stops == ["stop"]


def test_nobody_is_stopped_unasked() -> None:
    handle = Handle()
    handle.attach(lambda: pytest.fail("it stopped"), -1)
    handle.stop_if_wanted()


def test_a_server_that_has_ended_meanwhile() -> None:
    def stop() -> None:
        raise ProcessLookupError

    handle = Handle()
    handle.attach(stop, -1)
    handle.stop()


@pytest.mark.parametrize("force", [False, True])
def test_a_client_is_ended_as_it_is_wanted(force: bool) -> None:
    ended: list[bool] = []
    handle = Handle()
    handle.disconnect(force=force)
    set_serving(Client(Stream(), ended.append))
    handle.disconnect(force=force)
    set_serving(None)
    assert ended == [force]


def test_what_is_known_of_the_server() -> None:
    handle = Handle(single=True)
    assert (handle.single, handle.one_process) == (True, False)
    handle.serve_in_one_process()
    assert handle.one_process


def test_streams_that_lead_nowhere_are_of_no_use() -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            handle = Handle()
            _, writer = os.pipe()
            os.dup2(os.open("/dev/null", os.O_RDWR), 0)
            os.dup2(writer, 1)
            os.close(2)
            status = 0 if tuple(handle.stdio) == (False, True, False) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_what_puts_programs_into_a_sandbox_is_passed_on() -> None:
    assert Handle().confine is None
    done: list[None] = []
    confine = Handle(confine=lambda: done.append(None)).confine
    assert confine is not None
    confine()
    assert done == [None]
