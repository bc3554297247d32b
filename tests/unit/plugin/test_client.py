"""What a plugin may ask about the client whose request it carries out."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from nbdfork.backend.client import Client, Protection, set_serving
from nbdfork.plugin import client


@pytest.fixture
def served() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    set_serving(Client(ours, lambda at_once: None))
    yield ours
    set_serving(None)
    ours.close()
    theirs.close()


class Pipes:
    """A stream that is no socket."""

    def fileno(self) -> int:
        return 7


def test_without_a_client_there_is_nothing_to_tell() -> None:
    assert client.current() is None
    assert client.credentials() is None
    assert client.protection() is None
    assert not client.is_tls()
    assert client.descriptor() == -1


def test_a_client_on_a_socket(served: socket.socket) -> None:
    assert client.current() is served
    assert client.descriptor() == served.fileno()
    assert client.credentials() == (os.getpid(), os.getuid(), os.getgid())
    assert not client.is_tls()


def test_a_client_on_pipes() -> None:
    set_serving(Client(Pipes(), lambda at_once: None))
    assert (client.current(), client.descriptor(), client.credentials()) == (None, 7, None)
    set_serving(None)


def test_a_client_from_afar_is_no_process_of_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as peer:
            set_serving(Client(peer, lambda at_once: None))
            assert client.current() is peer
            assert client.credentials() is None
            set_serving(None)


def test_a_client_that_tls_protects(served: socket.socket) -> None:
    secured = Client(served, lambda at_once: None)
    secured.protection = Protection("CN=client", "CN=authority")
    set_serving(secured)
    assert client.is_tls()
    assert client.protection() == ("CN=client", "CN=authority")


def test_another_thread_serves_another_client(served: socket.socket) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(client.current()))
    thread.start()
    thread.join()
    assert found == [None]
