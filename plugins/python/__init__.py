"""The python plugin: scripts written for nbdkit's Python API, unmodified.

A script may keep its disk in a variable.  So one process serves all clients, each in a thread of
its own, unless the script has NBDFORK_PROCESSES = True.  Clients are told the same facts and errors
as by nbdkit with the same script.
"""

import contextlib
import logging
import platform
import sys
from collections.abc import Iterable, Mapping

from nbdfork.plugin import (
    ConfigError,
    Export,
    ExportInfo,
    Parameter,
    Plugin,
    ThreadModel,
    client,
    parse,
    shown,
)

from . import nbdkit
from .export import PythonExport, PythonExportV1
from .script import API_VERSIONS, PythonScript, request

log = logging.getLogger(__name__)


class Python(Plugin):
    """run a script written for nbdkit's Python API"""

    script = Parameter(
        parse.path, required=True, magic=True, metavar="SCRIPT", help="the script; comes first"
    )

    _loaded: PythonScript | None = None
    _model = ThreadModel.SERIALIZE_ALL_REQUESTS

    # -- starting -----------------------------------------------------------------------

    def dump_plugin(self) -> Mapping[str, str]:
        if self.script is not None:
            self._load().call_at_startup("dump_plugin")
        return {
            "python_version": platform.python_version(),
            "nbdkit_python_maximum_api_version": str(API_VERSIONS[-1]),
        }

    def _load(self) -> PythonScript:
        """Return the script; it is run when it is needed for the first time."""
        if self._loaded is None:
            nbdkit._Loaded.server = self.server
            self._loaded = PythonScript(self.script)
        return self._loaded

    def config(self, key: str, value: str) -> None:
        if self.script is None:
            raise ConfigError(
                f"python: {shown(key, value)} comes before the script: name that first"
            )
        script = self._load()
        if script.get("config") is None:
            raise ConfigError(
                f"python: {script.path}: takes no parameters, but {shown(key, value)} is given;"
                " leave it out, or define config(key, value)"
            )
        script.call_at_startup("config", key, value)

    def config_complete(self) -> None:
        script = self._load()
        script.call_at_startup("config_complete")
        if script.get("thread_model") is not None:
            model = script.call_at_startup("thread_model")
            try:
                self._model = ThreadModel(model)
            except ValueError:
                raise ConfigError(
                    f"python: {script.path}: thread_model returned {model!r}; return one of"
                    " nbdkit.THREAD_MODEL_*"
                ) from None

    def thread_model(self) -> ThreadModel:
        return self._model

    def waits(self) -> bool | None:
        return None  # only the script's author knows

    def has_named_exports(self) -> bool:
        return self._load().get("list_exports") is not None

    def one_process(self) -> bool:
        return self._loaded is None or self._loaded.constant("NBDFORK_PROCESSES") is not True

    def get_ready(self) -> None:
        self._load().call_at_startup("get_ready")
        _flush_output()

    # -- serving ------------------------------------------------------------------------

    def after_fork(self) -> None:
        script = self._load()
        script.serve_as_main()
        nbdkit._Loaded.server = self.server  # a program may have loaded several scripts
        script.call_at_startup("after_fork")

    def preconnect(self, read_only: bool) -> None:
        script = self._load()
        if script.get("preconnect") is not None:
            script.call("preconnect", read_only)

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        script = self._load()
        if script.get("list_exports") is None:
            return super().list_exports(read_only)
        found = script.call("list_exports", read_only, client.is_tls())
        return script.converted("list_exports", _export_info, found)

    def default_export(self, read_only: bool) -> str:
        script = self._load()
        if script.get("default_export") is None:
            return ""
        name = script.call("default_export", read_only, client.is_tls())
        if not isinstance(name, str):
            raise script.error("default_export", f"returned {name!r}; return a string")
        return name

    def open(self, export_name: str, read_only: bool) -> Export:
        script = self._load()
        request.export_name = export_name
        handle = script.call("open", read_only)
        kind = PythonExportV1 if script.api_version == 1 else PythonExport
        return kind(script, handle, self._model)

    def cleanup(self) -> None:
        script = self._load()
        try:
            if script.get("cleanup") is not None:
                script.call("cleanup")
        finally:
            _flush_output()


def _flush_output() -> None:
    """Flush what the script has printed: a fork would copy it, and the end of a worker drop it."""
    with contextlib.suppress(OSError, ValueError):  # it is closed, or nobody reads it
        sys.stdout.flush()


def _export_info(item: object) -> ExportInfo:
    match item:
        case str(name):
            return ExportInfo(name)
        case (str(name), str(description)) if isinstance(item, tuple):
            return ExportInfo(name, description)
    raise TypeError(f"{item!r} is no export; return a list of names or (name, description) tuples")
