"""The server: for a plugin that nothing serves, and what there is to wait for."""

import errno
import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from nbdfork.backend.client import Client, set_serving
from nbdfork.plugin import Plugin, Server, client
from nbdfork.plugin import server as server_module
from tests.support.harness import refused


def test_it_answers_and_does_nothing() -> None:
    server = Plugin().server
    assert not server.single
    assert not server.one_process
    assert tuple(server.stdio) == (False, False, False)
    assert server.ending == -1
    server.stop()
    server.disconnect()
    server.disconnect(force=True)
    assert server.wait(0) == {}


class Served(Server):
    """The server of a process that is told to end when `pipe` is written to."""

    def __init__(self) -> None:
        self.pipe = os.pipe()

    @property
    def ending(self) -> int:
        return self.pipe[0]


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    for fd in server.pipe:
        os.close(fd)


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """Return the other end of the client that this thread serves, on a Unix domain socket."""
    ours, theirs = socket.socketpair()
    set_serving(Client(ours, lambda at_once: None))
    with ours, theirs:
        yield theirs
    set_serving(None)


def test_a_wait_is_over_after_its_time(served: Served, peer: socket.socket) -> None:
    began = time.monotonic()
    assert served.wait(0.02) == {}
    assert time.monotonic() - began >= 0.02


def test_a_wait_returns_the_events_that_come(served: Served, peer: socket.socket) -> None:
    one, other = socket.socketpair()
    with one, other:
        other.send(b"x")
        found = served.wait(None, {one.fileno(): select.POLLIN | select.POLLOUT})
        assert found == {one.fileno(): select.POLLIN | select.POLLOUT}


def test_no_wait_for_a_client_that_has_left(served: Served, peer: socket.socket) -> None:
    assert not client.has_left()
    peer.close()
    assert client.has_left()
    with refused(errno.ESHUTDOWN, "client has left"):
        served.wait(60)


def test_a_client_that_sends_nothing_more_waits_for_its_answer(
    served: Served, peer: socket.socket
) -> None:
    peer.shutdown(socket.SHUT_WR)
    assert not client.has_left()
    assert served.wait(0.01) == {}


def test_a_client_on_pipes_has_left_when_it_reads_no_more(served: Served) -> None:
    class Pipes:
        sink = served.pipe[1]

        def fileno(self) -> int:
            return 0

    set_serving(Client(Pipes(), lambda at_once: None))
    assert client.departure() == served.pipe[1]
    assert not client.has_left()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, served.pipe[0])  # nobody has the pipe's other end any more
    os.close(null)
    assert client.has_left()
    set_serving(None)


def test_the_end_leaves_a_wait_little_time(
    served: Served, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "LAST_SECONDS", 0.05)
    os.write(served.pipe[1], b"x")
    assert served.wait(0.001) == {}  # a short one comes to its end
    with refused(errno.ESHUTDOWN, "shutting down"):
        served.wait(60)
    with refused(errno.ESHUTDOWN, "shutting down"):
        served.wait(60)  # and the next has no time of its own
