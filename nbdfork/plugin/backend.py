"""The backend: one configured plugin, as the server sees it, through its whole life.

It calls the plugin's methods in their order, decides which export names are served, and hands
a `Gate` to each client.
"""

import errno
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nbdfork.plugin.errors import ConfigError
from nbdfork.plugin.export import ExportInfo, Plugin
from nbdfork.plugin.gate import Gate
from nbdfork.plugin.load import Found
from nbdfork.plugin.parameters import ParameterSet

log = logging.getLogger(__name__)


class UnknownExport(Exception):
    """There is no export of the name the client asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no export {name!r}")


class Backend:
    """A plugin with the settings that the server's options give it.

    *read_only* makes every export read-only.  *export_name*, if not None, is the one name that
    is served; the empty name then means the same export.
    """

    def __init__(
        self,
        found: Found,
        *,
        read_only: bool = False,
        export_name: str | None = None,
    ) -> None:
        self.name = found.name
        self._plugin: Plugin = found.plugin_class()
        self._parameters = ParameterSet(found.plugin_class)
        self._read_only = read_only
        self._export_name = export_name

    # -- life, in the supervisor --------------------------------------------------------

    def configure(self, arguments: Iterable[str]) -> None:
        """Give the plugin its parameters.  Raises `ConfigError`."""
        log.debug("%s: config", self.name)
        self._parameters.assign(self._plugin, self.name, arguments)
        self._plugin.config_complete()

    def set_debug_flag(self, owner: str, flag: str, value: int) -> None:
        """Set a debug flag of the plugin (`-D OWNER.FLAG=N`).  Raises `ConfigError`."""
        if owner != self.name:
            raise ConfigError(
                f"-D {owner}.{flag}: {owner!r} is neither nbdfork nor the plugin {self.name!r}"
            )
        if flag not in self._plugin.debug:
            known = ", ".join(self._plugin.debug) or "none"
            raise ConfigError(f"-D {owner}.{flag}: no such debug flag; the plugin has: {known}")
        self._plugin.debug[flag] = value

    def get_ready(self) -> None:
        """Let the plugin make what all clients share.  Raises `ConfigError`."""
        log.debug("%s: get_ready", self.name)
        try:
            self._plugin.get_ready()
        except OSError as error:
            raise ConfigError(f"{self.name}: {error}") from error

    # -- life, in each worker -----------------------------------------------------------

    def after_fork(self) -> None:
        """A worker has been forked."""
        self._plugin.after_fork()

    def list_exports(self) -> list[ExportInfo]:
        """Return the exports that a client may be shown.  Raises OSError."""
        if self._export_name is not None:
            return [ExportInfo(self._export_name)]
        with self._only_os_errors("list_exports"):
            return list(self._plugin.list_exports())

    def canonical_name(self, name: str) -> str:
        """Return the name of the export a client means by *name*.

        Raises `UnknownExport` if it may not have it.
        """
        if self._export_name is not None:
            if name not in ("", self._export_name):
                raise UnknownExport(name)
            return self._export_name
        return name or self._plugin.default_export()

    def open(self, name: str) -> Gate:
        """Open the export *name* (canonical) for a client.

        Raises `UnknownExport`, or the OSError that the plugin refused with.
        """
        log.debug("%s: open %r", self.name, name)
        with self._only_os_errors("open"):
            try:
                export = self._plugin.open(name, self._read_only)
            except FileNotFoundError as error:
                raise UnknownExport(name) from error
            try:
                return Gate(export, self._read_only)
            except BaseException:
                export.close()
                raise

    @contextmanager
    def _only_os_errors(self, method: str) -> Iterator[None]:
        """Turn a bug of the plugin, once logged, into an OSError with EIO."""
        try:
            yield
        except (OSError, UnknownExport):
            raise
        except Exception as error:
            log.exception("%s: %s: a bug of the plugin:", self.name, method)
            raise OSError(errno.EIO, "the plugin failed") from error
