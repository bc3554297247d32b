"""A connection to an NBD server that only asks about its exports."""

import errno
import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from nbdfork.plugin import ExportInfo

from .._link.texts import shown
from .._link.timeout import Patience
from .connecting import connect_handle, cut, finish_option, held
from .library import why_lost

log = logging.getLogger(__name__)

MOST_EXPORTS = 10_000
"""How many exports of a server are looked at: the list is kept in memory."""

MOST_BYTES = 8 * 1024 * 1024
"""How long their names and descriptions may be together."""


class Listing:
    """What a server says about its exports; an oldstyle server has a single one, without a name.

    Raises `LinkLost` if there is no connection.
    """

    def __init__(self, nbd: ModuleType, connect: Callable[[Any], None], patience: Patience) -> None:
        self._nbd = nbd
        self._patience = patience
        self._handle = nbd.NBD()
        self._handle.set_opt_mode(True)
        self._handle.set_full_info(True)
        connect_handle(nbd, connect, self._handle, patience)
        self._socket = held(self._handle.aio_get_fd())

    def exports(self) -> list[ExportInfo]:
        """Return the exports that the server lists.  Raises OSError if it refuses to.

        Those whose names are not UTF-8 are left out: libnbd does not tell them.
        """
        if not self._handle.aio_is_negotiating():
            return [ExportInfo("")]
        found: list[ExportInfo] = []
        left = MOST_BYTES

        def note(name: str, description: str) -> int:
            nonlocal left
            left -= len(name) + len(description)
            if left < 0 or len(found) == MOST_EXPORTS:
                cut(self._socket)  # the server need not come to an end by itself
                left = -1
            else:
                text = description if description.isprintable() else shown(description)
                found.append(ExportInfo(name, text))
            return 0

        try:
            self._ask(lambda done: self._handle.aio_opt_list(note, done))
        except OSError:
            if left >= 0:
                raise
            log.warning("nbd: the server lists too many exports: %d of them are shown", len(found))
        return found

    def default_export(self) -> str:
        """Return the name of the server's default export, or ""."""
        if not self._handle.aio_is_negotiating():
            return ""
        try:
            self._ask(self._handle.aio_opt_info)
            name: str = self._handle.get_canonical_export_name()
        except (
            OSError,
            self._nbd.Error,
            UnicodeDecodeError,
        ):  # it has none, or does not tell its name
            return ""
        return name

    def _ask(self, start: Callable[[Callable[[Any], int]], object]) -> None:
        """Have an option negotiated, which *start* starts.  Raises OSError if that fails."""
        answers: list[int] = []

        def done(error: Any) -> int:
            answers.append(error.value)
            return 1

        try:
            start(done)
            finish_option(self._nbd, self._handle, self._patience)
        except self._nbd.Error as error:
            raise OSError(errno.EIO, why_lost(error)) from error
        if any(answers) and not self._handle.aio_is_negotiating():
            raise OSError(errno.EIO, "the far end says nonsense, or has hung up")
        if any(answers):
            raise OSError(answers[0], f"the server says: {os.strerror(answers[0])}")

    def close(self) -> None:
        """Disconnect from the server."""
        self._socket.close()
        if self._handle.aio_is_negotiating():
            self._handle.aio_opt_abort()
