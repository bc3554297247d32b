"""A worker with several clients at once: slots, threads that fail or cannot start, and the end."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nbdfork.server.admission import EVERYBODY, Admission
from nbdfork.server.peers import Peer
from nbdfork.server.service import OnExport, Service
from nbdfork.server.slots import Slot, State
from nbdfork.server.stopper import Servable
from nbdfork.server.threads import Threads
from tests.support.harness import SECONDS, eventually
from tests.support.worker import NO_SANDBOX, Place

Serve = Callable[[socket.socket, Slot], object]


class Served:
    """A client in a thread of its own."""

    def __init__(self, serve: Callable[[], object]) -> None:
        self._serve = serve

    def serve(self) -> None:
        self._serve()

    def stop(self) -> None:
        pass


def echo(client: socket.socket, slot: Slot) -> None:
    """Say what the client says, as long as it says something; each of it is a request."""
    with client:
        while data := client.recv(100):
            slot.count(1, 0, len(data), 0, 0)
            client.sendall(data)


@contextmanager
def working(place: Place, serve: Serve = echo) -> Iterator[None]:
    """Let a worker serve its clients; in the end it is retired, and must end."""

    def connect(client: socket.socket, peer: Peer, on_export: OnExport, slot: Slot) -> Servable:
        return Served(lambda: serve(client, slot))

    service = Service(
        after_fork=lambda stop, ending: None,
        connect=connect,
        cleanup=lambda: None,
        admission=Admission(EVERYBODY, most_per_party=0),
        keepalive=False,
        clients_per_worker=0,
        clients_at_once=len(place.inherited.slots) - 1,
        sandbox=NO_SANDBOX,
    )
    worker = threading.Thread(target=Threads(place.inherited, service, place.stopper).run)
    worker.start()
    try:
        yield
    finally:
        place.retire()
        worker.join(SECONDS)
    assert not worker.is_alive()


@pytest.fixture
def two() -> Iterator[Place]:
    """The place of a worker that serves two clients at once."""
    made = Place(slots=3)
    yield made
    made.close()


def said_to(client: socket.socket, data: bytes) -> bytes:
    client.settimeout(SECONDS)
    client.sendall(data)
    return client.recv(100)


def test_each_client_has_a_slot_and_the_worker_counts_for_all(two: Place) -> None:
    with working(two):
        with two.client() as one, two.client() as other:
            assert said_to(one, b"one") == b"one"
            assert said_to(other, b"other") == b"other"
            assert [two.board.state(index) for index in range(3)] == [State.SERVING] * 3
        eventually(lambda: two.board.state(0) is State.IDLE)
        assert two.board.entry(0).counters[:2] == (2, 2)
        assert {two.board.state(index) for index in (1, 2)} == {State.FREE}


def test_one_too_many_waits_until_another_goes(
    two: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with working(two):
        first, second = two.client(), two.client()
        with second, first:
            said_to(first, b"x")
            said_to(second, b"x")
            with two.client() as third:
                third.sendall(b"late")
                eventually(lambda: "all 2 clients are taken" in caplog.text)
                first.close()
                third.settimeout(SECONDS)
                assert third.recv(100) == b"late"


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(1)], ids=repr)
def test_a_thread_that_fails_costs_its_client_only(
    error: BaseException, two: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_at_first(client: socket.socket, slot: Slot) -> None:
        with client:
            if client.recv(1) == b"!":
                raise error
            client.sendall(b"served")

    with working(two, fail_at_first):
        for _ in range(5):  # more often than there are slots
            with two.client() as bad:
                assert said_to(bad, b"!") == b""
        with two.client() as good:
            assert said_to(good, b"?") == b"served"
    assert caplog.text.count("a client's thread failed") == 5


def test_a_client_for_whom_there_is_no_thread_is_let_go(
    two: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start
    left = 3  # of the starts that fail

    def start_sometimes(thread: threading.Thread) -> None:
        nonlocal left
        if not thread.daemon:  # the one that looks for departures is
            left -= 1
            if left >= 0:
                raise RuntimeError("can't start new thread")
        start(thread)

    with caplog.at_level(logging.ERROR), working(two):
        monkeypatch.setattr(threading.Thread, "start", start_sometimes)
        for _ in range(3):
            with two.client() as refused:
                refused.settimeout(SECONDS)
                assert refused.recv(1) == b""
        with two.client() as good:
            assert said_to(good, b"x") == b"x"
    assert caplog.messages.count("cannot serve a client: can't start new thread") == 3
