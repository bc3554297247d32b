"""Where a worker waits: for a client to come in, or for the word that it is to end."""

import errno
import logging
import os
import select
import socket
import time
from types import TracebackType

from nbdfork.server import sockets
from nbdfork.server.errors import CannotAccept
from nbdfork.server.inheritance import Inheritance
from nbdfork.server.stopper import Stopper

log = logging.getLogger(__name__)

SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
SHORTAGE_PAUSE = 0.1
"""Seconds to wait before the next try to accept if the machine lacks descriptors or memory."""

UNUSABLE = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
"""What accept(2) says of a socket that does not listen; all else is said of one connection."""


class Entrance:
    """The listening sockets, the leash, the bell and the stop signal, waited for together.

    It is a context manager: a worker that is busy with a client must not be woken for others.
    """

    def __init__(self, inherited: Inheritance, stopper: Stopper, *, has_clients: bool) -> None:
        """*has_clients*: while the worker waits here, it serves others, which is to go on.

        Raises `CannotAccept`.
        """
        self._inherited = inherited
        self._has_clients = has_clients
        self._stopper = stopper
        self._slot = inherited.slot(0)
        self._epoll = select.epoll()
        try:
            for listener in inherited.listeners:
                # Of all workers that wait, the kernel wakes one for each connection.
                self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        except OSError as error:
            raise CannotAccept(error) from error
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
        """Wait for a client; return None if the worker is to end instead.

        Raises `CannotAccept` if this process can accept nobody: for good, or at the moment, and
        there are no other clients that it has to go on with.
        """
        while not self._stopper.stopped:
            # Before looking at the orders: the connection that woke us wakes nobody else.
            for listener in self._inherited.listeners:
                client = self._accept_from(listener)
                if client is not None:
                    return client
            if self._slot.is_retired() or _is_let_go(self._inherited.leash):
                return None
            self._epoll.poll()
            self._stopper.forget_other_signals()
        return None

    def _accept_from(self, listener: socket.socket) -> socket.socket | None:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            if sockets.is_shut_down(listener):  # which a Unix domain socket does not say itself
                raise CannotAccept(OSError(errno.EINVAL, "the socket is shut down")) from None
            return None  # another worker was faster
        except OSError as error:
            if error.errno not in SHORTAGE | UNUSABLE:
                return None  # the client gave up while it was waiting, or its network did
            if not self._has_clients or error.errno in UNUSABLE:
                raise CannotAccept(error) from error  # a new worker may have what this one lacks
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
