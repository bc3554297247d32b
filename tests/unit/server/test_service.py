"""How one client is served: what its slot says of it, and what is announced."""

import logging
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from nbdfork.server.admission import EVERYBODY, Admission, Door, Rule, Rules
from nbdfork.server.peers import Peer
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.service import OnExport, Service, admit, serve
from nbdfork.server.slots import Slot, State
from nbdfork.server.stopper import Servable, Stopper
from tests.support.worker import NO_SANDBOX

US = f"unix pid {os.getpid()} uid {os.getuid()}"


class Serving:
    """A client that does one thing while it is served."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def serve(self) -> None:
        self._action()

    def stop(self) -> None:
        pass


class Desk:
    """A slot, and what was announced of it."""

    def __init__(self) -> None:
        self.board = Scoreboard(1)
        self.board.claim(1)
        self.slot = Slot(self.board.share(range(1)), 0)
        self.announced: list[str] = []
        self.admission = Admission(EVERYBODY, most_per_party=0)

    def announce(self) -> None:
        entry = self.board.entry(0)
        self.announced.append(f"{entry.state.name} {entry.client}")

    def serve(self, client: socket.socket, action: Callable[[OnExport], object]) -> None:
        """Let *client* in and serve it, if it is let in."""

        def connect(stream: socket.socket, peer: Peer, on_export: OnExport, slot: Slot) -> Servable:
            assert (stream, slot) == (client, self.slot)
            return Serving(lambda: action(on_export))

        service = Service(
            after_fork=lambda stop, ending: None,
            connect=connect,
            cleanup=lambda: None,
            admission=self.admission,
            keepalive=False,
            clients_per_worker=1,
            clients_at_once=1,
            sandbox=NO_SANDBOX,
        )
        admitted = admit(client, service, Door(service.admission, self.board), self.slot)
        if admitted is not None:
            serve(*admitted, service, Stopper(), self.slot, self.announce, None)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def client() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def test_who_is_served_what_is_told_as_it_becomes_known(desk: Desk, client: socket.socket) -> None:
    desk.serve(client, lambda on_export: on_export("disk"))
    assert desk.announced == [f"SERVING {US}", f"SERVING {US} export 'disk'"]
    assert desk.board.entry(0).counters.clients == 1


def test_one_that_has_left_already_is_let_go(desk: Desk) -> None:
    with socket.socket() as never_connected:
        desk.serve(never_connected, lambda on_export: pytest.fail("it was served"))
        assert never_connected.fileno() == -1
    assert desk.announced == []
    assert desk.board.entry(0).state is State.STARTING


def test_one_that_may_not_come_in_is_closed_before_anything_is_made_of_it(
    desk: Desk, client: socket.socket
) -> None:
    desk.admission = Admission(Rules(deny=(Rule("any"),)), most_per_party=0)
    desk.serve(client, lambda on_export: pytest.fail("it was served"))
    assert client.fileno() == -1
    assert desk.announced == []


def test_one_that_is_lost_is_named_in_the_log(
    desk: Desk, client: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(on_export: OnExport) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.INFO), pytest.raises(ZeroDivisionError):
        desk.serve(client, fail)
    assert caplog.messages[-1] == f"client {US} is lost: ZeroDivisionError in its worker"
