"""The contract's methods of a plugin that runs a script for others: each calls a callback of it.

A plugin for a language is a subclass that says how the script is run: by a helper, as most
(`HelperPlugin`), or in this process.  Up to `get_ready` a failure is a `ConfigError`; in a worker
it is an `OSError`.  It has been told which callbacks the script has; others are not called.
"""

import itertools
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

from nbdfork.plugin import (
    ConfigError,
    Export,
    ExportInfo,
    Parameter,
    Plugin,
    ThreadModel,
    client,
    shown,
)
from nbdfork.scripting.export import ScriptExport
from nbdfork.scripting.frames import IS_TLS, READ_ONLY
from nbdfork.scripting.helper import Helper
from nbdfork.scripting.script import Failed, Script
from nbdfork.scripting.template import Template

log = logging.getLogger(__name__)

REQUIRED = ("open", "get_size", "pread")


class Engine(Protocol):
    """What has loaded the script, in the supervisor."""

    def call(self, operation: str, payload: bytes = b"") -> tuple[int, bytes]:
        """Carry out an operation, and return value and payload of the answer.

        Raises `Failed`.
        """
        ...


class ScriptPlugin(Plugin):
    """What the plugins have in common that run a script.

    The first value of the parameter `script` is the script, others are for it if it has a
    magic_config_key.
    """

    name: ClassVar[str]
    """The plugin's name, for messages."""

    script = Parameter(
        str,
        required=True,
        repeatable=True,
        magic=True,
        metavar="SCRIPT",
        help="the script; comes first",
    )

    _engine: Engine | None = None
    _served: Script | None = None
    _model = ThreadModel.SERIALIZE_ALL_REQUESTS
    _path = ""
    _passed_on = 1  # how many of the arguments without a key the script knows

    def start(self, path: str) -> Engine:
        """Return what can load the script at *path*.  Raises `ConfigError`."""
        raise NotImplementedError

    def serve(self, path: str, callbacks: frozenset[str]) -> Script:
        """Return the script for the clients of this process.  Raises OSError."""
        raise NotImplementedError

    # -- starting, in the supervisor ----------------------------------------------------

    def _load(self) -> None:
        """Load the script, when it is needed first, and tell it of its magic parameters."""
        if self._engine is None:
            self._path = _path_of(self.name, self.script[0])
            sys.stdout.flush()  # what the script prints comes after what we have printed
            self._engine = self.start(self._path)
            told = os.fsdecode(self._ask("load")[1])
            self._facts = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
            self._callbacks = frozenset(self._facts.pop("callbacks", "").split())
            self._one_process = self._facts.pop("one_process", "yes") != "no"
            self._magic_key = self._facts.pop("magic_config_key", "")
            self._check_callbacks()
        while self._passed_on < len(self.script):
            text = self.script[self._passed_on]
            self._passed_on += 1
            if not self._magic_key:
                raise ConfigError(
                    f"{self.name}: {text!r} is not of the form key=value, and the script has no"
                    " magic_config_key to say what it is"
                )
            self._pass_on(self._magic_key, text)

    def _check_callbacks(self) -> None:
        for callback in REQUIRED:
            if callback not in self._callbacks:
                raise ConfigError(
                    f"{self.name}: {self._path}: the callback {callback} is missing; define it"
                )

    def _ask(self, callback: str, payload: bytes = b"") -> tuple[int, bytes]:
        """Call a callback while the server starts.  Raises `ConfigError`."""
        assert self._engine is not None
        try:
            return self._engine.call(callback, payload)
        except Failed as error:
            where = "" if self._path in error.text else f"{self._path}: "
            raise ConfigError(f"{self.name}: {where}{callback}: {error.text}") from error

    def _ask_if_there(self, callback: str) -> None:
        self._load()
        if callback in self._callbacks:
            self._ask(callback)

    def dump_plugin(self) -> Mapping[str, str]:
        if not self.script:
            return {}
        self._ask_if_there("dump_plugin")
        return self._facts

    def config(self, key: str, value: str) -> None:
        if not self.script:
            raise ConfigError(
                f"{self.name}: {shown(key, value)} comes before the script: name that first"
            )
        self._load()
        self._pass_on(key, value)

    def _pass_on(self, key: str, value: str) -> None:
        """Give the script a parameter."""
        if "config" not in self._callbacks:
            raise ConfigError(
                f"{self.name}: {self._path}: takes no parameters, but {shown(key, value)} is given;"
                " leave it out, or define config"
            )
        self._ask("config", os.fsencode(f"{key}\0{value}"))

    def config_complete(self) -> None:
        self._ask_if_there("config_complete")
        if "thread_model" in self._callbacks:
            model, _ = self._ask("thread_model")
            try:
                self._model = ThreadModel(model)
            except ValueError:
                raise ConfigError(
                    f"{self.name}: {self._path}: thread_model returned {model}; return 0 to 3"
                ) from None

    def thread_model(self) -> ThreadModel:
        return self._model

    def one_process(self) -> bool:
        return self._engine is None or self._one_process

    def get_ready(self) -> None:
        self._ask_if_there("get_ready")

    def unload(self) -> None:
        assert self._engine is not None
        try:
            if self._served is not None and self.server.one_process:
                self._served.call("unload")
            else:
                self._engine.call("unload")
        except OSError as error:
            log.error("%s", error)
        except Failed as error:
            log.error("%s: unload: %s", self._path, error)

    # -- serving, in a worker -----------------------------------------------------------

    def after_fork(self) -> None:
        self._load()
        self._served = self.serve(self._path, self._callbacks)
        self._handles = itertools.count(1)
        if "after_fork" in self._callbacks:
            self._served.call("after_fork")

    def preconnect(self, read_only: bool) -> None:
        if "preconnect" not in self._callbacks:
            return
        try:
            self._serving.call("preconnect", flags=_flags(read_only))
        except OSError as error:
            log.error("%s", error)  # the server takes it for a decision, not for a failure
            raise

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        if "list_exports" not in self._callbacks:
            return super().list_exports(read_only)
        _, payload = self._serving.call("list_exports", flags=_flags(read_only))
        fields = payload.decode(errors="replace").split("\0")
        # Each of names and descriptions is ended by a NUL.
        return [ExportInfo(*pair) for pair in zip(fields[::2], fields[1::2], strict=False)]

    def default_export(self, read_only: bool) -> str:
        if "default_export" not in self._callbacks:
            return ""
        _, payload = self._serving.call("default_export", flags=_flags(read_only))
        return payload.decode(errors="replace")

    def open(self, export_name: str, read_only: bool) -> Export:
        handle = next(self._handles)
        flags = _flags(read_only)
        self._serving.call("open", export_name.encode(), handle=handle, flags=flags)
        return ScriptExport(self._serving, handle, self._model)

    def cleanup(self) -> None:
        try:
            if "cleanup" in self._callbacks:
                self._serving.call("cleanup")
        except OSError as error:
            log.error("%s", error)

    @property
    def _serving(self) -> Script:
        assert self._served is not None
        return self._served


class HelperPlugin(ScriptPlugin):
    """The same for a script that a helper runs; a subclass says which."""

    _template: Template
    _helper: Helper

    def command(self, path: str) -> Sequence[str]:
        """Return the command that is the helper for the script at *path*.

        Raises `ConfigError`.
        """
        raise NotImplementedError

    def start(self, path: str) -> Engine:
        self._template = Template(self.command(path), self.server)
        return self._template

    def serve(self, path: str, callbacks: frozenset[str]) -> Script:
        self._helper = Helper(self._template, path, callbacks)
        return self._helper

    def cleanup(self) -> None:
        super().cleanup()
        if not self.server.one_process:
            self._helper.end()

    def unload(self) -> None:
        super().unload()
        if self._served is not None and self.server.one_process:
            self._helper.end()

    def finish(self) -> None:
        self._template.end()


def _path_of(plugin: str, name: str) -> str:
    path = os.path.abspath(name)
    if not os.path.isfile(path):
        raise ConfigError(f"{plugin}: {name}: there is no file of this name")
    return path


def _flags(read_only: bool) -> int:
    return (READ_ONLY if read_only else 0) | (IS_TLS if client.is_tls() else 0)
