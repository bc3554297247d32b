"""The contract's methods of a plugin whose work is done by a helper, each a request to it.

A plugin for a language is a subclass that says which command the helper is.  Up to `get_ready`
it is the template that is asked, and a failure is a `ConfigError`; in a worker it is the
worker's own fork, and a failure is an `OSError`.  The helper has told which callbacks the script
has; others are not asked for.
"""

import itertools
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from nbdfork.plugin import ConfigError, Export, ExportInfo, Plugin, ThreadModel

from .connection import Failed, HelperGone
from .export import HelperExport
from .frames import READ_ONLY
from .helper import Helper
from .template import Template

log = logging.getLogger(__name__)

REQUIRED = ("open", "get_size", "pread")


class HelperPlugin(Plugin):
    """What the plugins have in common whose work is done by a helper.

    A subclass declares the parameter `script`, magic and repeatable: the first value is the
    script, others are for it if it has a magic_config_key.
    """

    name: ClassVar[str]
    """The plugin's name, for messages."""

    script: tuple[str, ...]

    _template: Template | None = None
    _helper: Helper | None = None
    _model = ThreadModel.SERIALIZE_ALL_REQUESTS
    _path = ""
    _passed_on = 1  # how many of the arguments without a key the script knows

    def command(self, path: str) -> Sequence[str]:
        """Return the command that is the helper for the script at *path*.

        Raises `ConfigError`.
        """
        raise NotImplementedError

    # -- starting, in the supervisor ----------------------------------------------------

    def _load(self) -> Template:
        """Return the template; it is started when it is needed first."""
        if self._template is None:
            self._path = _path_of(self.name, self.script[0])
            sys.stdout.flush()  # what the script prints comes after what we have printed
            self._template = Template(self.command(self._path))
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
        return self._template

    def _check_callbacks(self) -> None:
        for callback in REQUIRED:
            if callback not in self._callbacks:
                raise ConfigError(
                    f"{self.name}: {self._path}: the callback {callback} is missing; define it"
                )

    def _ask(self, callback: str, payload: bytes = b"") -> tuple[int, bytes]:
        """Ask the template.  Raises `ConfigError`."""
        assert self._template is not None
        try:
            return self._template.connection.call(callback, payload)
        except Failed as error:
            where = "" if self._path in error.text else f"{self._path}: "
            raise ConfigError(f"{self.name}: {where}{callback}: {error.text}") from None
        except HelperGone as error:
            fate = self._template.fate()
            raise ConfigError(
                f"{self.name}: {self._path}: the helper died in {callback}: {fate}"
            ) from error

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
                f"{self.name}: {key}={value} comes before the script: name that first"
            )
        self._load()
        self._pass_on(key, value)

    def _pass_on(self, key: str, value: str) -> None:
        """Give the script a parameter."""
        if "config" not in self._callbacks:
            raise ConfigError(
                f"{self.name}: {self._path}: takes no parameters, but {key}={value} is given;"
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
        return self._template is None or self._one_process

    def get_ready(self) -> None:
        self._ask_if_there("get_ready")

    def unload(self) -> None:
        if self._template is None:
            return
        try:
            self._template.connection.call("unload")
        except (Failed, HelperGone) as error:
            log.error("%s: unload: %s", self._path, error)
        finally:
            self._template.end()

    # -- serving, in a worker -----------------------------------------------------------

    def after_fork(self) -> None:
        self._helper = Helper(self._load(), self._path, self._callbacks)
        self._handles = itertools.count(1)
        if "after_fork" in self._callbacks:
            self._helper.call("after_fork")

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
        return HelperExport(self._serving, handle, self._model)

    def cleanup(self) -> None:
        try:
            if "cleanup" in self._callbacks:
                self._serving.call("cleanup")
        except OSError as error:
            log.error("%s", error)
        finally:
            self._serving.end()

    @property
    def _serving(self) -> Helper:
        assert self._helper is not None
        return self._helper


def _path_of(plugin: str, name: str) -> str:
    path = os.path.abspath(name)
    if not os.path.isfile(path):
        raise ConfigError(f"{plugin}: {name}: there is no file of this name")
    return path


def _flags(read_only: bool) -> int:
    return READ_ONLY if read_only else 0
