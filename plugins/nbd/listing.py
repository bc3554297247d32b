"""A connection to an NBD server that only asks about its exports."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from nbdfork.plugin import ExportInfo

from .connecting import connect_handle
from .library import as_oserror


class Listing:
    """What a server says about its exports; an oldstyle server has a single one, without a name.

    Raises `LinkLost` if there is no connection.
    """

    def __init__(self, nbd: ModuleType, connect: Callable[[Any], None]) -> None:
        self._nbd = nbd
        self._handle = nbd.NBD()
        self._handle.set_opt_mode(True)
        self._handle.set_full_info(True)
        connect_handle(nbd, connect, self._handle)

    def exports(self) -> list[ExportInfo]:
        """Return the exports that the server lists.  Raises OSError if it refuses to."""
        found: list[ExportInfo] = []

        def note(name: str, description: str) -> int:
            found.append(ExportInfo(name, description))
            return 0

        if not self._handle.aio_is_negotiating():
            return [ExportInfo("")]
        try:
            self._handle.opt_list(note)
        except self._nbd.Error as error:
            raise as_oserror(error) from error
        return found

    def default_export(self) -> str:
        """Return the name of the server's default export, or ""."""
        if not self._handle.aio_is_negotiating():
            return ""
        try:
            self._handle.opt_info()
            name: str = self._handle.get_canonical_export_name()
        except self._nbd.Error:  # it has none, or does not tell its name
            return ""
        return name

    def close(self) -> None:
        """Disconnect from the server."""
        if self._handle.aio_is_negotiating():
            self._handle.opt_abort()
