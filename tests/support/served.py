"""A client that a thread of the test serves, to leave when the test wants it to."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from nbdfork.backend import client

T = TypeVar("T")


class Served:
    """The client; *theirs* is its end of the connection."""

    def __init__(self, theirs: socket.socket) -> None:
        self._theirs = theirs
        self._client = client.serving()
        self._pool = ThreadPoolExecutor(4)

    def begin(self, request: Callable[[], T]) -> "Future[T]":
        """Have *request* carried out for the client, in another thread."""

        def carry_out() -> T:
            client.set_serving(self._client)
            return request()

        return self._pool.submit(carry_out)

    def leave(self) -> None:
        """Hang up."""
        self._theirs.close()

    def close(self) -> None:
        """Wait until all requests have ended."""
        self._theirs.close()
        self._pool.shutdown()


@contextmanager
def serving() -> Iterator[Served]:
    """Let this thread serve a client."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client.set_serving(client.Client(ours, lambda at_once: None))
        served = Served(theirs)
        try:
            yield served
        finally:
            client.set_serving(None)
            served.close()
