"""The server handle that plugins get (`Plugin.server`), with the part that only the server uses.

How a server is stopped is the processes' business: they hand in a function.
"""

import os
from collections.abc import Callable
from contextlib import suppress

from nbdfork.backend.client import serving
from nbdfork.plugin import Server, Stdio


class Handle(Server):
    """The handle that all layers of one backend share; *single* is the option `-s`, and *name* what
    the user calls the server.  *confine*: see `Server.confine`.
    """

    def __init__(
        self,
        *,
        single: bool = False,
        name: str | None = None,
        confine: Callable[[], None] | None = None,
    ) -> None:
        self._single = single
        self._name = name
        self._confine = confine
        self._one_process = False
        self._ending = -1
        self._stop: Callable[[], None] | None = None
        self._is_stop_wanted = False
        # All processes of the server share it.  Whichever reads it first stops the server: a second
        # stop signal would cut short what the first one lets come to an end.
        self._unasked = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        os.close(self._unasked)

    # -- what plugins see ---------------------------------------------------------------

    @property
    def single(self) -> bool:
        return self._single

    @property
    def stdio(self) -> Stdio:
        return Stdio(*map(_is_of_use, (0, 1, 2)))

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def one_process(self) -> bool:
        return self._one_process

    @property
    def confine(self) -> Callable[[], None] | None:
        return self._confine

    @property
    def ending(self) -> int:
        return self._ending

    def stop(self) -> None:
        self._is_stop_wanted = True
        if self._stop is None:
            return
        with suppress(BlockingIOError, ProcessLookupError):  # it is stopping, or has ended already
            os.eventfd_read(self._unasked)
            self._stop()

    def disconnect(self, *, force: bool = False) -> None:
        client = serving()
        if client is not None:
            client.end(force)

    # -- what the server tells -------------------------------------------------------

    def serve_in_one_process(self) -> None:
        """All clients are going to be served by one process."""
        self._one_process = True

    def attach(self, stop: Callable[[], None], ending: int) -> None:
        """In a process that is to serve: *stop* stops the server, *ending* tells the end."""
        self._stop = stop
        self._ending = ending

    def stop_if_wanted(self) -> None:
        """Carry out what was asked for while there was nothing yet to be stopped."""
        if self._is_stop_wanted:
            self.stop()


def _is_of_use(fd: int) -> bool:
    """Return whether *fd* leads anywhere: it is open, and not the null device."""
    try:
        return not os.path.samestat(os.fstat(fd), os.stat(os.devnull))
    except OSError:
        return False
