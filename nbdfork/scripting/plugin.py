"""The contract's methods for a disk that is a script's callbacks: each method calls one of them.

How the script is run is up to subclasses: by a helper (`HelperPlugin`), or inside this process
(`embedded`).  A failure up to `get_ready` is a `ConfigError`, and in a worker an `OSError`.  The
script says at first which callbacks it has; others are never called.
"""

import itertools
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

from nbdfork.plugin import (
    ConfigError,
    Export,
    ExportInfo,
    LoadedFile,
    Needs,
    Parameter,
    Plugin,
    ThreadModel,
    client,
    shown,
)
from nbdfork.scripting.export import ScriptExport
from nbdfork.scripting.frames import IS_TLS, READ_ONLY
from nbdfork.scripting.helper import Helper
from nbdfork.scripting.script import CallbackFailed, Script
from nbdfork.scripting.template import Template

log = logging.getLogger(__name__)

REQUIRED = ("open", "get_size", "pread")


class Engine(Protocol):
    """What has loaded the script, in the supervisor."""

    def call(self, operation: str, payload: bytes = b"") -> tuple[int, bytes]:
        """Carry out an operation, and return the value and the payload of its reply.

        Raises `CallbackFailed`.
        """
        ...


class _ScriptItself(Parameter[tuple[str, ...]]):
    """The parameter `script` of a class that is made for one script: that is its first value."""

    def __init__(self, path: str) -> None:
        super().__init__(
            str,
            repeatable=True,
            magic=True,
            metavar="VALUE",
            help="what an argument without a key is, if the script knows",
        )
        self.default = (path,)


class ScriptPlugin(Plugin, ABC):
    """What plugins for languages have in common.

    The first value of the parameter `script` is the path of the script.  More of them are arguments
    without a key, which the script is given under the key that it declares (magic_config_key).
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
    _callbacks: frozenset[str] = frozenset()
    _one_process = True
    _passed_on = 1  # how many values of the parameter `script` have been dealt with

    @classmethod
    def load(cls, path: str) -> LoadedFile:
        """Return a plugin that is the one script at *path*.

        It is the loader for files in this language: see `nbdfork.loaders` in nbdfork-plugin(3).
        """
        name, _ = os.path.splitext(os.path.basename(path))
        members = {"__doc__": cls.__doc__, "script": _ScriptItself(path)}
        return LoadedFile(name, type(cls.__name__, (cls,), members))

    # -- what subclasses know -----------------------------------------------------------

    @abstractmethod
    def _start(self, path: str) -> Engine:
        """Return what can load the script at *path*.  Raises `ConfigError`."""

    @abstractmethod
    def _serve(self, path: str, callbacks: frozenset[str]) -> Script:
        """Return the script for the clients of this process.  Raises OSError."""

    # -- starting, in the supervisor ----------------------------------------------------

    def _load(self) -> None:
        """Load the script unless it has been, and pass on arguments without a key."""
        if self._engine is None:
            self._path = _path_of(self.name, self.script[0])
            sys.stdout.flush()  # or what the script prints might appear before it
            self._engine = self._start(self._path)
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
        except CallbackFailed as error:
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

    def has_named_exports(self) -> bool:
        return "list_exports" in self._callbacks

    def one_process(self) -> bool:
        return self._one_process

    def get_ready(self) -> None:
        self._ask_if_there("get_ready")

    # -- serving, in a worker -----------------------------------------------------------

    def after_fork(self) -> None:
        self._load()
        self._handles = itertools.count(1)
        try:
            self._served = self._serve(self._path, self._callbacks)
            if "after_fork" in self._callbacks:
                self._served.call("after_fork")
        except OSError as error:  # the script's own, and a line that says where
            raise ConfigError(f"{self.name}: {error}") from error

    def preconnect(self, read_only: bool) -> None:
        if "preconnect" in self._callbacks:
            self._serving.call("preconnect", flags=_flags(read_only))

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        if "list_exports" not in self._callbacks:
            return super().list_exports(read_only)
        _, payload = self._serving.call("list_exports", flags=_flags(read_only))
        fields = os.fsdecode(payload).split("\0")  # what is not UTF-8 is not listed, and told of
        # Each of names and descriptions is ended by a NUL.
        return [ExportInfo(*pair) for pair in zip(fields[::2], fields[1::2], strict=False)]

    def default_export(self, read_only: bool) -> str:
        if "default_export" not in self._callbacks:
            return ""
        _, payload = self._serving.call("default_export", flags=_flags(read_only))
        return os.fsdecode(payload)

    def open(self, export_name: str, read_only: bool) -> Export:
        handle = next(self._handles)
        flags = _flags(read_only)
        self._serving.call("open", os.fsencode(export_name), handle=handle, flags=flags)
        return ScriptExport(self._serving, handle, self._model)

    def cleanup(self) -> None:
        self._call_at_the_end("cleanup", self._serving.call)

    def unload(self) -> None:
        if self._engine is None:
            return
        is_here = self._served is not None and self.server.one_process
        self._call_at_the_end("unload", self._serving.call if is_here else self._engine.call)

    def _call_at_the_end(self, callback: str, call: Callable[[str], object]) -> None:
        """Call a callback if the script has it.  A failure is logged: nobody is left to be told."""
        if callback not in self._callbacks or (self._served is not None and self._served.is_gone):
            return
        try:
            call(callback)
        except OSError as error:
            log.error("%s", error)
        except CallbackFailed as error:
            log.error("%s: %s: %s", self._path, callback, error)

    @property
    def _serving(self) -> Script:
        assert self._served is not None
        return self._served


class HelperPlugin(ScriptPlugin):
    """The base class of a plugin for a language whose scripts are run by a helper.

    A helper is a program that speaks the helper protocol, nbdfork-host-plugin(3).  A subclass has a
    `name`, and says which `command` is the helper.
    """

    _template: Template
    _helper: Helper

    def needs(self) -> Needs:
        # The helper is no child of this process, and it may have to be killed.
        return Needs(anything=True, signals=True)

    @abstractmethod
    def command(self, path: str) -> Sequence[str]:
        """Return the command, a program and its arguments, that is the helper for a script.

        *path* is the script's absolute path.  Raises `ConfigError` if there is no such program,
        with what the user has to install.
        """

    def _start(self, path: str) -> Engine:
        self._template = Template(self.command(path), self.server)
        return self._template

    def _serve(self, path: str, callbacks: frozenset[str]) -> Script:
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
