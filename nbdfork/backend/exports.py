"""What clients can have: which names they are shown, and the gate that each gets.

Here a plugin's methods are called that are for a client but not of its export.  What goes wrong in
them becomes one of the errors in `errors`.
"""

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Protocol

from nbdfork.backend.chain import Chain
from nbdfork.backend.client import calling
from nbdfork.backend.errors import ClientRefused, PluginFailed, UnknownExport, cause
from nbdfork.backend.gate import Gate
from nbdfork.plugin import ExportInfo

log = logging.getLogger(__name__)


class Served(Protocol):
    """What clients can have: of one chain (`Exports`), or of several (`Disks`)."""

    def preconnect(self) -> None:
        """A client has connected.  Raises `ClientRefused`, or `PluginFailed`."""

    def default(self) -> str:
        """Return the name of what a client gets that names nothing.

        Raises OSError, or `UnknownExport` if there is no such thing.
        """

    def listed(self) -> list[ExportInfo]:
        """Return what a client may be shown; the default export may be without its name.

        Raises OSError.
        """

    def check(self, name: str) -> None:
        """Raise `UnknownExport` if clients cannot have *name*."""

    def needs_tls(self, name: str) -> bool:
        """Return whether only clients that use TLS can have *name*."""

    def open(self, name: str) -> Gate:
        """Open the export *name*, which is not "" unless that is the default, for a client.

        Raises `UnknownExport`, having logged why, or the OSError that the plugin refused with.
        """


class Exports:
    """What clients can have of *chain*; see `Served`.

    *read_only* makes every export read-only.  *name*, if not None, is the one that is served; the
    empty name then means the same export.  *description*, unless it is empty, is what clients are
    told of it, whatever the plugin says.  *with_tls*: only clients that use TLS can have it.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        read_only: bool = False,
        name: str | None = None,
        description: str = "",
        with_tls: bool = False,
    ) -> None:
        self.chain = self._chain = chain
        self.description = description
        self._with_tls = with_tls
        self._top = chain.top
        self._read_only = read_only
        self._name = name

    def preconnect(self) -> None:
        with self._guarded("preconnect"):
            try:
                self._top.preconnect(self._read_only)
            except OSError as error:
                raise ClientRefused(cause(error)) from error

    def default(self) -> str:
        if self._name is not None:
            return self._name
        with self._guarded("default_export"):
            return self._top.default_export(self._read_only)

    def listed(self) -> list[ExportInfo]:
        if self._name is not None:
            return [ExportInfo(self._name, self.description)]
        with self._guarded("list_exports"):
            return list(self._top.list_exports(self._read_only))

    def check(self, name: str) -> None:
        if self._name is not None and name != self._name:
            raise UnknownExport(name)

    def needs_tls(self, name: str) -> bool:
        return self._with_tls

    def begin(self, begin: Callable[[Chain], None]) -> None:
        """Let the chain prepare by *begin* for clients of this process.  Raises `PluginFailed`."""
        with self._guarded("after_fork"):
            begin(self._chain)

    def open(self, name: str) -> Gate:
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
                seeks = self._chain.waits() is not True
                gate = Gate(export, self._read_only, self._chain.lock, seeks_holes=seeks)
            except BaseException:
                export.close()
                raise
        gate.description = self.description or gate.description
        return gate

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


class Disks:
    """What clients can have of several chains, by the names of their exports; see `Served`.

    *default*: which of them is meant by the empty name; None: it means nothing.  *begin* is called
    in a process before its first client of a chain.
    """

    def __init__(
        self,
        disks: Mapping[str, Exports],
        default: str | None,
        begin: Callable[[Chain], None],
    ) -> None:
        self._disks = disks
        self._default = default
        self._begin = begin

    def preconnect(self) -> None:
        """Nothing is known yet of what the client wants; see `open`."""

    def default(self) -> str:
        if self._default is None:
            raise UnknownExport("")
        return self._default

    def listed(self) -> list[ExportInfo]:
        return [ExportInfo(name, disk.description) for name, disk in self._disks.items()]

    def check(self, name: str) -> None:
        if name not in self._disks:
            raise UnknownExport(name)

    def needs_tls(self, name: str) -> bool:
        return self._disks[name].needs_tls(name)

    def open(self, name: str) -> Gate:
        self.check(name)
        disk = self._disks[name]
        disk.begin(self._begin)
        disk.preconnect()
        return disk.open(name)


class Catalogue:
    """The *exports* as one client sees them.

    The plugin is asked only once which is the default, so it is the same for all that follows.
    """

    def __init__(self, exports: Served) -> None:
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

    def needs_tls(self, name: str) -> bool:
        """Return whether only clients that use TLS can have an export, by its canonical name."""
        return self._exports.needs_tls(name)

    def _named_default(self) -> str:
        if self._default is None:
            self._default = self._exports.default()
        return self._default
