"""The backend: a configured plugin with its filters, as the server sees it, for all its life.

It hands out the arguments, calls the layers' methods in their order, decides which export names
are served, and gives each client a `Gate`.
"""

import errno
import logging
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import NamedTuple

from nbdfork.backend.gate import Gate
from nbdfork.backend.handle import Handle
from nbdfork.plugin import Filter
from nbdfork.plugin.errors import ConfigError, cause
from nbdfork.plugin.export import ExportInfo
from nbdfork.plugin.parameters import (
    HIDDEN,
    Assignment,
    ParameterSet,
    Secret,
    shown,
    split,
    unknown,
)
from nbdfork.plugin.plugin import Plugin, ThreadModel, takes_any_key
from nbdfork.plugin.shared import SharedLock

log = logging.getLogger(__name__)


class UnknownExport(Exception):
    """There is no export of the name the client asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no export {name!r}")


class Layer(NamedTuple):
    """A plugin, or a filter, and the name it goes by."""

    name: str
    plugin: Plugin


class Backend:
    """A plugin behind its filters, with the settings that the server's options give it.

    *filters*: the first is nearest to the client.  *read_only* makes every export read-only.
    *export_name*, if not None, is the one name that is served; the empty name then means the
    same export.  *single*: there is one client, on standard input and output.
    """

    def __init__(
        self,
        plugin: Layer,
        filters: Sequence[Layer] = (),
        *,
        read_only: bool = False,
        export_name: str | None = None,
        single: bool = False,
    ) -> None:
        self.name = plugin.name
        self._layers = [*filters, plugin]
        for above, below in zip(self._layers, self._layers[1:], strict=False):
            assert isinstance(above.plugin, Filter)
            above.plugin.next = below.plugin
        self._server = Handle(single=single)
        for layer in self._layers:
            layer.plugin.server = self._server
        self._top = self._layers[0].plugin
        self._read_only = read_only
        self._export_name = export_name
        self._lock: AbstractContextManager[object] | None = None
        self._has_served = mmap.mmap(-1, 1)  # is 1 for all processes when one can have clients

    # -- life, in the supervisor --------------------------------------------------------

    def configure(self, arguments: Iterable[str]) -> None:
        """Give the layers their parameters.

        A key goes to the first layer, from the client's side, that declares it; what none
        declares, to the plugin, if it takes any key.  Raises `ConfigError`.
        """
        log.debug("%s: config", self.name)
        assignments = [Assignment(layer.plugin, layer.name) for layer in self._layers]
        for argument in arguments:
            self._assign(assignments, *split(argument))
        for assignment in assignments:
            assignment.finish()
        for layer in reversed(self._layers):
            with _starting(layer, "config_complete"):
                layer.plugin.config_complete()

    def _assign(self, assignments: list[Assignment], key: str | None, text: str) -> None:
        plugin = self._layers[-1].plugin
        magic = assignments[-1].declared.magic
        if key is None and magic is not None:
            key = magic.key
            assignments = assignments[-1:]
        for assignment in assignments:
            if key in assignment.declared.by_key:
                assert key is not None
                assignment.set(key, text)
                return
        if key is None or not takes_any_key(plugin):
            known = [known for one in assignments for known in one.declared.by_key]
            raise unknown(self.name, key, text, known)
        with _starting(self._layers[-1], "config"):
            plugin.config(key, text)

    def without_secrets(self, words: Iterable[str]) -> list[str]:
        """Return *words* of a command line as they may be shown."""
        secret = {
            key
            for layer in self._layers
            for key, parameter in ParameterSet(type(layer.plugin)).by_key.items()
            if isinstance(parameter, Secret)
        }
        guess = any(takes_any_key(layer.plugin) for layer in self._layers)

        def without(word: str) -> str:
            key, value = split(word)
            if key in secret:
                return f"{key}={HIDDEN}"
            return shown(key, value) if guess and key is not None else word

        return [without(word) for word in words]

    def set_debug_flag(self, owner: str, flag: str, value: int) -> None:
        """Set a debug flag of a layer (`-D OWNER.FLAG=N`).  Raises `ConfigError`."""
        for layer in self._layers:
            if layer.name == owner:
                break
        else:
            names = ", ".join(["nbdfork", *(layer.name for layer in self._layers)])
            raise ConfigError(f"-D {owner}.{flag}: {owner!r} is none of: {names}")
        if flag not in layer.plugin.debug:
            known = ", ".join(layer.plugin.debug) or "none"
            raise ConfigError(f"-D {owner}.{flag}: no such debug flag; the plugin has: {known}")
        layer.plugin.debug[flag] = value

    def thread_model(self) -> ThreadModel:
        """Return the strictest thread model of all layers."""
        return min(layer.plugin.thread_model() for layer in self._layers)

    def waits(self) -> bool:
        """Return whether several requests of one client should be carried out at once."""
        return any(layer.plugin.waits() for layer in self._layers)

    def one_process(self) -> bool:
        """Return whether one process must serve all clients, at once or one after another."""
        return self.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS or any(
            layer.plugin.one_process() for layer in self._layers
        )

    def get_ready(self) -> None:
        """Let the layers make what all clients share.  Raises `ConfigError`."""
        log.debug("%s: get_ready", self.name)
        if self.one_process():
            self._server.serve_in_one_process()
        for layer in reversed(self._layers):
            with _starting(layer, "get_ready"):
                layer.plugin.get_ready()
        if self.thread_model() is ThreadModel.SERIALIZE_ALL_REQUESTS:
            self._lock = Lock() if self.one_process() else SharedLock()

    def finish(self) -> None:
        """The server ends.  Where one process has served all clients, its layers were unloaded."""
        if not (self.one_process() and self._has_served[0]):
            self._each("unload", lambda plugin: plugin.unload())
        self._each("finish", lambda plugin: plugin.finish())

    # -- life, in each worker -----------------------------------------------------------

    def after_fork(self, stop: Callable[[], None], ending: int) -> None:
        """A worker has been forked; see `Handle.attach` for what it is given."""
        self._server.attach(stop, ending)
        for layer in reversed(self._layers):
            layer.plugin.after_fork()
        self._has_served[0] = 1
        self._server.stop_if_wanted()

    def cleanup(self) -> None:
        """A worker ends; with it, perhaps, all that is known of clients."""
        self._each("cleanup", lambda plugin: plugin.cleanup())
        if self.one_process():
            self._each("unload", lambda plugin: plugin.unload())

    def _each(self, what: str, call: Callable[[Plugin], None]) -> None:
        """Call all layers, whatever one of them raises."""
        for layer in self._layers:
            try:
                call(layer.plugin)
            except Exception:
                log.exception("%s: %s failed:", layer.name, what)

    def preconnect(self) -> None:
        """A client has connected.  Raises OSError if it is not wanted."""
        with self._guarded("preconnect"):
            self._top.preconnect(self._read_only)

    def list_exports(self) -> list[ExportInfo]:
        """Return the exports that a client may be shown.  Raises OSError."""
        if self._export_name is not None:
            return [ExportInfo(self._export_name)]
        with self._guarded("list_exports"):
            return list(self._top.list_exports(self._read_only))

    def canonical_name(self, name: str) -> str:
        """Return the name of the export a client means by *name*.

        Raises `UnknownExport` if it may not have it, OSError if the plugin fails to say.
        """
        if self._export_name is not None:
            if name not in ("", self._export_name):
                raise UnknownExport(name)
            return self._export_name
        if name:
            return name
        with self._guarded("default_export"):
            return self._top.default_export(self._read_only)

    def open(self, name: str) -> Gate:
        """Open the export *name* (canonical) for a client.

        Raises `UnknownExport`, or the OSError that the plugin refused with.
        """
        log.debug("%s: open %r", self.name, name)
        with self._guarded("open"):
            try:
                export = self._top.open(name, self._read_only)
            except FileNotFoundError as error:
                log.info("%s: open %r: %s", self.name, name, cause(error))
                raise UnknownExport(name) from error
            try:
                return Gate(export, self._read_only, self._lock)
            except BaseException:
                export.close()
                raise

    @contextmanager
    def _guarded(self, method: str) -> Iterator[None]:
        """Hold the lock, if there is one; turn a bug of the plugin, once logged, into EIO."""
        try:
            with self._lock or nullcontext():
                yield
        except (OSError, UnknownExport):
            raise
        except Exception as error:
            log.exception("%s: %s: a bug of the plugin:", self.name, method)
            raise OSError(errno.EIO, "the plugin failed") from error


@contextmanager
def _starting(layer: Layer, method: str) -> Iterator[None]:
    """Turn whatever goes wrong while the server starts into a `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{layer.name}: {error}") from error
    except Exception as error:
        log.debug("%s: %s: a bug of the plugin:", layer.name, method, exc_info=True)
        raise ConfigError(
            f"{layer.name}: {method} failed: {type(error).__name__}: {error} (-v tells where)"
        ) from error
