"""Where a worker waits: for a client to come in, or for the word that it is to end."""

import logging
import os
import select
import socket
import time
from types import TracebackType

from nbdfork.server.inheritance import Inheritance
from nbdfork.server.stopper import Stopper

log = logging.getLogger(__name__)

SHORTAGE_PAUSE = 0.1
"""Seconds to wait before the next try to accept if the machine lacks descriptors or memory."""


class Entrance:
    """The listening sockets, the leash, the bell and the stop signal, waited for together.

    It is a context manager: a worker that is busy with a client must not be woken for others.
    """

    def __init__(self, inherited: Inheritance, stopper: Stopper) -> None:
        self._inherited = inherited
        self._stopper = stopper
        self._slot = inherited.slot()
        self._epoll = select.epoll()
        for listener in inherited.listeners:
            # Of all workers that wait, the kernel wakes one for each connection.
            self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        # The bell rings for all and is never read; as an edge it wakes each worker just once.
        self._epoll.register(inherited.bell, select.EPOLLIN | select.EPOLLET)
        self._epoll.register(inherited.leash, select.EPOLLIN)
        self._epoll.register(stopper.ending, select.EPOLLIN)

    def __enter__(self) -> "Entrance":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._epoll.close()

    def accept(self) -> socket.socket | None:
        """Wait for a client; return None if the worker is to end instead."""
        while not self._stopper.stopped:
            # Before looking at the orders: the connection that woke us wakes nobody else.
            for listener in self._inherited.listeners:
                client = _accept_from(listener)
                if client is not None:
                    return client
            if self._slot.is_retired() or _is_let_go(self._inherited.leash):
                return None
            self._epoll.poll()
            self._stopper.forget_other_signals()
        return None


def _accept_from(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None  # another worker was faster
    except ConnectionError:
        return None  # the client gave up while it was waiting
    except OSError as error:  # no descriptors or no memory: clients being served go on
        log.error("cannot accept a client: %s", error)
        time.sleep(SHORTAGE_PAUSE)
        return None


def _is_let_go(leash: int) -> bool:
    """Return whether the leash, on which nothing is ever written, has reached its end."""
    try:
        os.read(leash, 1)
    except BlockingIOError:
        return False
    return True
