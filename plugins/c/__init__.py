"""C plugins: shared objects made for nbdkit's C API, as they are.

`load` makes a plugin class of one; it is the loader for files whose names end in ".so".
What a plugin returns, and what follows from a callback that it does not have, is interpreted
here and in `export` as nbdkit does; how its callbacks are called is the business of the
extension module `_native`, which is written in C.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nbdfork.plugin import (
    ConfigError,
    Export,
    ExportInfo,
    LoadedFile,
    Parameter,
    Plugin,
    Server,
    ThreadModel,
    parse,
    shown,
)

from . import crash
from .export import CExport
from .known import UNKNOWN, WELL_KNOWN
from .library import CallbackError, Library, native

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent


class C(Plugin):
    """serve a plugin written in C for nbdkit: give its path, ./NAME.so, in place of this name"""

    nbdfork_processes = Parameter(
        parse.boolean,
        metavar="yes|no",
        help="whether each client gets a process of its own (default: it depends on the plugin)",
    )

    library: Library | None = None
    """What has been loaded; `load` makes a subclass for each library."""

    _model: ThreadModel | None = None

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.server = Server()
        self._given: set[str] = set()
        self._traits = UNKNOWN
        if self.library is not None:
            self.debug = _DebugFlags(self.library)
            self._traits = WELL_KNOWN.get(self.library.name, UNKNOWN)

    @property
    def server(self) -> Server:
        """The server, which the functions of the API that concern it ask and tell."""
        return self._server

    @server.setter
    def server(self, server: Server) -> None:
        self._server = server
        if self.library is not None:
            native().set_server(server)

    def _loaded(self) -> Library:
        if self.library is None:
            raise ConfigError("c: which plugin? Give its path instead: nbdfork ./NAME.so ...")
        return self.library

    def _run(self, callback: str) -> int | None:
        """Call a callback, if there is one.  Raises `ConfigError` if it fails."""
        library = self._loaded()
        if callback not in library.callbacks:
            return None
        try:
            return library.native.run(callback)
        except CallbackError as error:
            raise ConfigError(f"{library.name}: {error.cause}") from error

    # -- starting -----------------------------------------------------------------------

    def dump_plugin(self) -> Mapping[str, str]:
        if self.library is None:
            directory = _HERE / "lib" / "pkgconfig"
            return {"includedir": str(_HERE / "include/nbdfork"), "pkgconfigdir": str(directory)}
        sys.stdout.flush()  # the plugin prints with the C library
        self._run("dump_plugin")
        native().flush_output()
        found = self.library.native
        return {
            "api_version": str(found.api_version),
            "struct_size": str(found.struct_size),
            "max_thread_model": self._named_model(found.max_thread_model).name.lower(),
            "errno_is_preserved": str(int(found.errno_is_preserved != 0)),
        }

    def config(self, key: str, value: str) -> None:
        library = self._loaded()
        if "config" not in library.callbacks:
            raise ConfigError(
                f"{library.name}: takes no parameters, but {shown(key, value)} is given"
            )
        self._given.add(key)
        try:
            library.native.config(key, value)
        except CallbackError as error:
            raise ConfigError(f"{library.name}: {shown(key, value)}: {error.cause}") from error

    def config_complete(self) -> None:
        self._run("config_complete")
        self._model = self._ask_thread_model()

    def _ask_thread_model(self) -> ThreadModel:
        most = self._loaded().native.max_thread_model
        model = self._run("thread_model")
        return self._named_model(most if model is None else min(model, most))

    def _named_model(self, model: int) -> ThreadModel:
        try:
            return ThreadModel(model)
        except ValueError:
            raise ConfigError(
                f"{self._loaded().name}: its thread model is {model}, and there are 0 to 3"
            ) from None

    def thread_model(self) -> ThreadModel:
        if self.library is None:
            return ThreadModel.PARALLEL
        if self._traits.main_thread and self.one_process():
            return ThreadModel.SERIALIZE_CONNECTIONS  # its one client is served in no other
        return self._ask_thread_model() if self._model is None else self._model

    def one_process(self) -> bool:
        if self.nbdfork_processes is not None:
            return not self.nbdfork_processes
        if self.library is None:
            return True
        declared = self.library.native.get_variable("nbdfork_processes")
        if declared is not None:
            return declared == 0
        return self._traits.shares(self._given)

    def waits(self) -> bool:
        return self._traits.waits

    def get_ready(self) -> None:
        self._run("get_ready")
        native().flush_output()  # a fork would copy what is not written yet

    # -- serving ------------------------------------------------------------------------

    def after_fork(self) -> None:
        native().set_verbose(log.isEnabledFor(logging.DEBUG))
        crash.report_crashes()
        self._run("after_fork")

    def preconnect(self, read_only: bool) -> None:
        library = self._loaded()
        if "preconnect" in library.callbacks:
            library.native.preconnect(read_only)

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        library = self._loaded()
        if "list_exports" not in library.callbacks:
            return super().list_exports(read_only)
        return [
            ExportInfo(name, description or "")  # without a name, it is the default export
            for name, description in library.native.list_exports(read_only)
        ]

    def default_export(self, read_only: bool) -> str:
        library = self._loaded()
        if "default_export" not in library.callbacks:
            return ""
        return library.native.default_export(read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        library = self._loaded()
        client = library.native.open(export_name, read_only)
        return CExport(library, client, self.thread_model())

    def cleanup(self) -> None:
        try:
            self._run("cleanup")
        finally:
            native().flush_output()

    def unload(self) -> None:
        self._run("unload")
        native().flush_output()


class _DebugFlags(dict[str, int]):
    """The variables NAME_debug_FLAG of a plugin, which -D NAME.FLAG=N sets."""

    def __init__(self, library: Library) -> None:
        super().__init__()
        self._library = library

    def _variable(self, flag: object) -> str:
        return re.sub(r"\W", "_", f"{self._library.name}_debug_{flag}", flags=re.ASCII)

    def __contains__(self, flag: object) -> bool:
        return self._library.native.get_variable(self._variable(flag)) is not None

    def __setitem__(self, flag: str, value: int) -> None:
        self._library.native.set_variable(self._variable(flag), value)


class _MagicKey(Parameter[tuple[str, ...]]):
    """The parameter that an argument without a key is for.

    Each value is passed on as soon as it is set, so that the plugin sees all in their order.
    """

    def __init__(self, key: str) -> None:
        super().__init__(
            str, metavar="VALUE", help="what an argument without a key is", repeatable=True,
            magic=True, key=key,
        )  # fmt: skip

    def __set__(self, instance: object, value: tuple[str, ...]) -> None:
        assert isinstance(instance, Plugin)
        instance.config(self.key, value[-1])


def load(path: str) -> LoadedFile:
    """Load the C plugin at *path*, and make a class for it.  Raises `ConfigError`."""
    native().set_server(None)
    library = Library(path)
    members: dict[str, object] = {"__doc__": library.title, "library": library}
    if "config" in library.callbacks:
        # Plugins older than .magic_config_key run scripts, and expect to be given one.
        members["magic_parameter"] = _MagicKey(library.native.magic_config_key or "script")
    plugin_class = type(library.name, (C,), members)
    if "load" in library.callbacks:
        with contextlib.suppress(CallbackError):  # it returns nothing, so it cannot fail
            library.native.run("load")
    version = library.native.version or "unknown"
    callbacks = tuple(sorted(library.callbacks))
    return LoadedFile(library.name, plugin_class, version, library.help_lines, callbacks)
