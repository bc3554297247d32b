"""The eval plugin: the methods of a script, each a piece of shell on the command line.

The pieces are put into files in the temporary directory that they share, and are run as the sh
plugin runs a script.
"""

import os
from collections.abc import Mapping
from typing import Any

from nbdfork.plugin import ConfigError, Parameter

from .sh.call import MISSING, OK
from .sh.plugin import ShellPlugin
from .sh.process import SHELL, Outcome, save_program

METHODS = frozenset({
    "after_fork", "block_size", "cache", "can_cache", "can_extents", "can_fast_zero", "can_flush",
    "can_fua", "can_multi_conn", "can_trim", "can_write", "can_zero", "close", "config",
    "config_complete", "default_export", "dump_plugin", "export_description", "extents", "flush",
    "get_ready", "get_size", "is_rotational", "list_exports", "open", "pread", "preconnect",
    "pwrite", "thread_model", "trim", "unload", "zero",
})  # fmt: skip

IMPLIED: Mapping[str, tuple[str, Outcome]] = {
    "can_cache": ("cache", Outcome(OK, b"native")),
    "can_extents": ("extents", Outcome(OK)),
    "can_flush": ("flush", Outcome(OK)),
    "can_trim": ("trim", Outcome(OK)),
    "can_write": ("pwrite", Outcome(OK)),
    "can_zero": ("zero", Outcome(OK)),
}
"""The answer for a method that is not given, if another one is."""


class Eval(ShellPlugin):
    """methods written in shell, as METHOD=SCRIPT; all other keys are for their config"""

    missing = Parameter(str, metavar="SCRIPT", help="what to run for methods that are not given")

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._paths: dict[str, str] = {}

    def _locate(self, method: str) -> str | Outcome:
        if method in self._paths:
            return self._paths[method]
        other, outcome = IMPLIED.get(method, ("", Outcome(MISSING)))
        if other in self._paths:
            return outcome
        return self._paths.get("missing", Outcome(MISSING))

    def config(self, key: str, value: str) -> None:
        if key in self._paths:
            raise ConfigError(f"eval: {key}= is given twice")
        if key in METHODS:
            self._save(key, value)
            return
        self._save_missing()
        try:
            self._pass_on(key, value)
        except ConfigError:
            raise ConfigError(
                f"eval: {key}= is no method, and there is no config=SCRIPT that takes it"
            ) from None

    def config_complete(self) -> None:
        self._save_missing()
        super().config_complete()

    def _save_missing(self) -> None:
        if self.missing is not None and "missing" not in self._paths:
            self._save("missing", self.missing)

    def _save(self, name: str, text: str) -> None:
        path = os.path.join(self._script.directory, name)
        save_program(path, os.fsencode(f"#!{SHELL}\n{text}\n"))
        self._paths[name] = path
