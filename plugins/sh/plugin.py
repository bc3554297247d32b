"""The part of the sh and eval plugins that is the same: methods that do not concern one client.

A script keeps its state in files, in a directory that all of its runs know.  So any number of
processes can serve clients.
"""

import atexit
import logging
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from nbdfork.plugin import (
    ConfigError,
    Export,
    ExportInfo,
    Plugin,
    SharedCounter,
    SharedLock,
    ThreadModel,
    client,
    shown,
)

from . import output
from .call import ShellScript
from .export import ShellExport
from .process import Outcome

log = logging.getLogger(__name__)


class ShellPlugin(Plugin, ABC):
    """A plugin whose methods are runs of a script; a subclass says of which one."""

    _model = ThreadModel.SERIALIZE_ALL_REQUESTS

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._made: ShellScript | None = None

    @abstractmethod
    def _locate(self, method: str) -> str | Outcome:
        """Return the path of the program to run for *method*, or the outcome if it is known."""

    @property
    def _script(self) -> ShellScript:
        """The script.  Its temporary directory is made with it, and lives as long as the server."""
        if self._made is None:
            directory = tempfile.mkdtemp(prefix="nbdfork")
            # For a server that fails to start.  Workers, and the process that waits for a daemon,
            # end without calling it.
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            self._made = ShellScript(self._locate, directory)
        return self._made

    # -- starting -----------------------------------------------------------------------

    def dump_plugin(self) -> Mapping[str, str]:
        """Add the `key=value` lines that the script prints."""
        pairs = {"max_known_status": "3"}
        try:
            printed = self._script.ask("dump_plugin") or ""
        except OSError as error:
            raise ConfigError(str(error)) from error
        lines = (line.partition("=") for line in printed.splitlines())
        return pairs | {key: value for key, separator, value in lines if separator}

    def _pass_on(self, key: str, value: str) -> None:
        """Give the script a parameter."""
        if self._script.call("config", key, value) is None:
            raise ConfigError(f"{shown(key, value)}: the script takes no parameters; leave it out")

    def config_complete(self) -> None:
        self._script.call("config_complete")
        name = (self._script.ask("thread_model") or "").strip()
        try:
            self._model = ThreadModel[name.upper()] if name else self._model
        except KeyError:
            log.warning("thread_model: %r is unknown, so requests are served one by one", name)

    def thread_model(self) -> ThreadModel:
        return self._model

    def waits(self) -> bool:
        return True  # for another process, which can use another processor

    def get_ready(self) -> None:
        self._script.call("get_ready")
        anew = f"of {time.monotonic_ns()}"  # another program has another script
        self._forks = SharedCounter(name=anew)
        self._first_fork = SharedLock(name=anew)

    # -- serving ------------------------------------------------------------------------

    def after_fork(self) -> None:
        """Run the script's `after_fork` in the first worker only: for it, there is one process."""
        with self._first_fork:
            if not self._forks.value:
                try:
                    self._script.call("after_fork")
                except OSError as error:
                    raise ConfigError(str(error)) from error
                self._forks.add()

    def preconnect(self, read_only: bool) -> None:
        self._script.call("preconnect", _word(read_only))

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        found = self._exports("list_exports", read_only)
        return super().list_exports(read_only) if found is None else found

    def default_export(self, read_only: bool) -> str:
        found = self._exports("default_export", read_only)
        return (found[0].name or "") if found else ""

    def _exports(self, method: str, read_only: bool) -> list[ExportInfo] | None:
        printed = self._script.call(method, _word(read_only), _word(client.is_tls()))
        return None if printed is None else output.exports(os.fsdecode(printed))

    def open(self, export_name: str, read_only: bool) -> Export:
        handle = self._script.ask("open", _word(read_only), export_name, _word(client.is_tls()))
        return ShellExport(self._script, handle or "")

    def unload(self) -> None:
        try:
            self._script.call("unload")
        except OSError as error:
            log.error("%s", error)

    def finish(self) -> None:
        shutil.rmtree(self._script.directory, ignore_errors=True)


def _word(value: bool) -> str:
    return "true" if value else "false"
