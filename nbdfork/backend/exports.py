"""The exports of a chain: which names clients are shown, and the gate that each gets.

Here a plugin's methods are called that are for a client but not of its export.  What goes wrong in
them becomes one of the errors in `errors`.
"""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from nbdfork.backend.chain import Chain
from nbdfork.backend.client import calling
from nbdfork.backend.errors import ClientRefused, PluginFailed, UnknownExport, cause
from nbdfork.backend.gate import Gate
from nbdfork.plugin import ExportInfo

log = logging.getLogger(__name__)


class Exports:
    """What clients can have of *chain*.

    *read_only* makes every export read-only.  *name*, if not None, is the one that is served; the
    empty name then means the same export.
    """

    def __init__(self, chain: Chain, *, read_only: bool = False, name: str | None = None) -> None:
        self._chain = chain
        self._top = chain.top
        self._read_only = read_only
        self._name = name

    def preconnect(self) -> None:
        """A client has connected.  Raises `ClientRefused`, or `PluginFailed`."""
        with self._guarded("preconnect"):
            try:
                self._top.preconnect(self._read_only)
            except OSError as error:
                raise ClientRefused(cause(error)) from error

    def default(self) -> str:
        """Return the name of what a client gets that names nothing.  Raises OSError."""
        if self._name is not None:
            return self._name
        with self._guarded("default_export"):
            return self._top.default_export(self._read_only)

    def listed(self) -> list[ExportInfo]:
        """Return what a client may be shown; the default export may be without its name.

        Raises OSError.
        """
        if self._name is not None:
            return [ExportInfo(self._name)]
        with self._guarded("list_exports"):
            return list(self._top.list_exports(self._read_only))

    def check(self, name: str) -> None:
        """Raise `UnknownExport` if clients cannot have *name*."""
        if self._name is not None and name != self._name:
            raise UnknownExport(name)

    def open(self, name: str) -> Gate:
        """Open the export *name*, which is not "" unless that is the default, for a client.

        Raises `UnknownExport`, having logged why, or the OSError that the plugin refused with.
        """
        self.check(name)
        log.debug("%s: open %r", self._chain.name, name)
        with self._guarded("open"):
            try:
                export = self._top.open(name, self._read_only)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                log.error("the export %r cannot be opened: %s", name, cause(error))
                raise UnknownExport(name) from error
            try:
                seeks = not self._chain.waits()
                return Gate(export, self._read_only, self._chain.lock, seeks_holes=seeks)
            except BaseException:
                export.close()
                raise

    @contextmanager
    def _guarded(self, method: str) -> Iterator[None]:
        """Hold the lock; log a bug of the plugin, and raise `PluginFailed` for it."""
        try:
            with calling(), self._chain.lock or nullcontext():
                yield
        except (OSError, ClientRefused, UnknownExport):
            raise
        except Exception as error:
            failure = PluginFailed(error)
            log.error("%s: %s: %s", self._chain.name, method, failure.strerror, exc_info=error)
            raise failure from error


class Catalogue:
    """The *exports* as one client sees them.

    The plugin is asked only once which is the default, so it is the same for all that follows.
    """

    def __init__(self, exports: Exports) -> None:
        self._exports = exports
        self._default: str | None = None

    def listed(self) -> list[tuple[str, str]]:
        """Return names and descriptions of what the client may be shown.  Raises OSError."""
        return [
            (self._named_default() if name is None else name, description)
            for name, description in self._exports.listed()
        ]

    def canonical_name(self, name: str) -> str:
        """Return the name of the export that the client means by *name*.

        Raises `UnknownExport` if it cannot have it, OSError if the plugin fails to say.
        """
        if not name:
            return self._named_default()
        self._exports.check(name)
        return name

    def open(self, name: str) -> Gate:
        """Open an export by its canonical name; see `Exports.open`."""
        return self._exports.open(name)

    def _named_default(self) -> str:
        if self._default is None:
            self._default = self._exports.default()
        return self._default
