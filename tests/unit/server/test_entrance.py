"""Where a worker waits: clients come in, and orders, the leash and the signal end it."""

import errno
import os
import socket
import threading

import pytest

from nbdfork.server import entrance
from nbdfork.server.errors import CannotAccept
from tests.support.harness import SECONDS, eventually, is_readable
from tests.support.worker import Place


def test_a_client_comes_in(place: Place) -> None:
    with place.client() as client:
        accepted = place.accept()
        assert accepted is not None
        with accepted:
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"


def test_a_client_that_waits_is_served_though_the_worker_is_to_go(place: Place) -> None:
    """Nobody else was woken for it."""
    with place.client():
        place.board.retire(0)
        os.close(place.leash_end)
        accepted = place.accept()
        assert accepted is not None
        accepted.close()
    assert place.accept() is None


def test_a_worker_that_is_retired_goes(place: Place) -> None:
    place.board.retire(0)
    assert place.accept() is None


def test_a_worker_whose_supervisor_is_dead_goes(place: Place) -> None:
    os.close(place.leash_end)
    assert place.accept() is None


def test_the_bell_wakes_it_to_look_at_its_orders(place: Place) -> None:
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(place.accept()))
    waiting.start()
    place.retire()
    waiting.join(SECONDS)
    assert found == [None]


def test_a_signal_of_a_plugin_wakes_it_once(place: Place) -> None:
    place.stopper.announce_end()  # which is a byte on the pipe, as any signal writes it
    waiting = threading.Thread(target=place.accept)
    waiting.start()
    eventually(lambda: not is_readable(place.stopper.ending))
    place.retire()
    waiting.join(SECONDS)
    assert not waiting.is_alive()


def test_a_stopped_worker_takes_nobody(place: Place) -> None:
    place.stopper.stopped = True
    with place.client():
        assert place.accept() is None


class Failing(socket.socket):
    """A socket that accepts nobody."""

    number = errno.EMFILE

    def accept(self) -> tuple[socket.socket, object]:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EBADF, errno.EINVAL])
def test_a_worker_that_can_accept_nobody_gives_up(number: int, place: Place) -> None:
    with Failing(fileno=os.dup(place.listener.fileno())) as failing:
        failing.number = number
        place.inherited.listeners[0] = failing
        with pytest.raises(CannotAccept):
            place.accept()


def test_one_with_clients_goes_on_with_them(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entrance, "SHORTAGE_PAUSE", 0)
    with Failing(fileno=os.dup(place.listener.fileno())) as failing:
        place.inherited.listeners[0] = failing
        place.board.retire(0)
        assert place.accept(has_clients=True) is None
    assert "cannot accept a client: " in caplog.text


def test_a_connection_that_was_given_up_is_nothing(place: Place) -> None:
    with Failing(fileno=os.dup(place.listener.fileno())) as failing:
        failing.number = errno.ECONNABORTED
        place.inherited.listeners[0] = failing
        place.board.retire(0)
        assert place.accept() is None


def test_a_socket_that_somebody_has_shut_down(place: Place) -> None:
    place.listener.shutdown(socket.SHUT_RDWR)
    with pytest.raises(CannotAccept, match=r"Invalid argument|shut down"):
        place.accept()
