"""A C plugin that has been loaded and checked; every mistake in it is one line for the user.

Here, too, are the two functions that `_native` calls: for what a plugin logs, and for the
exception that a callback's failure becomes.
"""

import logging
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdfork.plugin import ConfigError

if TYPE_CHECKING:
    from . import _native

log = logging.getLogger(__name__)

PREFIX = "nbdfork: error: "
"""What the lines that `crash.c` writes to standard error begin with, as all errors there do."""

REQUIRED = ("open", "get_size", "pread")

_NOT_BUILT = (
    "C plugins need a part of nbdfork that is written in C and was not built here ({reason});"
    " install a C compiler and Python's headers (gcc and python3-dev), then install nbdfork again"
)


_FILTER = "it is a filter of nbdkit's; nbdfork has filters of its own, written in Python"


class CallbackError(OSError):
    """A callback failed.

    The client gets `errno`; the log gets *cause*, what the plugin has said with nbdkit_error.
    """

    def __init__(self, plugin: str, callback: str, code: int, messages: str | None) -> None:
        super().__init__(code, f"{callback} failed in the plugin")
        self.cause = messages or f"{callback} failed: {os.strerror(code)}"
        self._where = f"{plugin}: {callback}"

    def __str__(self) -> str:
        return f"{self._where}: {self.cause}"


def _log(plugin: str, is_error: bool, text: str) -> None:
    log.log(logging.ERROR if is_error else logging.DEBUG, "%s: %s", plugin, text)


@cache
def native() -> Any:
    """Return the module `_native`.  Raises `ConfigError` if it was not built."""
    try:
        from . import _native
    except ImportError as error:
        raise ConfigError(_NOT_BUILT.format(reason=error)) from error
    _native.set_hooks(_log, CallbackError)
    _native.set_verbose(log.isEnabledFor(logging.DEBUG))
    _native.report_crashes(2, PREFIX, False)
    return _native


class Library:
    """The plugin in the file *path*.  `native` calls it; `callbacks` is what it can be asked.

    Raises `ConfigError` if it cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.native = self._open()
        self.name = self.native.name or ""
        self.callbacks = frozenset(self.native.callbacks())
        self._check()

    def _open(self) -> "_native.Library":
        module = native()
        try:
            library: _native.Library = module.Library(self.path)
        except (OSError, ValueError) as error:
            if _is_filter(self.path):
                raise ConfigError(f"cannot load {self.path!r}: {_FILTER}") from error
            reason = str(error).removeprefix(f"{self.path}: ")
            raise ConfigError(f"cannot load {self.path!r}: {reason}{_hint(reason)}") from error
        return library

    def _check(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", self.name):
            raise ConfigError(
                f"{self.path}: the plugin's .name is {self.name!r}; it must be of letters, digits"
                ' and "-"'
            )
        if self.name == "python":
            raise ConfigError(
                f"{self.path}: it brings a Python of its own, and two do not live in one process;"
                " serve the script with nbdfork's: nbdfork python SCRIPT"
            )
        for callback in REQUIRED:
            if callback not in self.callbacks:
                raise ConfigError(f"{self.path}: the plugin has no .{callback}, which it must have")

    @property
    def title(self) -> str:
        """One line about the plugin."""
        return str(self.native.longname or self.name).strip()

    @property
    def help_lines(self) -> tuple[str, ...]:
        """What it says of itself and of its parameters."""
        texts = (self.native.description, self.native.config_help)
        return tuple(line for text in texts if text for line in text.strip("\n").splitlines())


def _is_filter(path: str) -> bool:
    """Return whether a shared object that cannot be loaded has the symbol of nbdkit's filters."""
    try:
        return b"\0filter_init\0" in Path(path).read_bytes()
    except OSError:
        return False


def _hint(reason: str) -> str:
    if match := re.search(r"undefined symbol: (nbdkit_\w+)", reason):
        return f" (nbdfork has no function {match[1]}: the plugin is for a newer nbdkit)"
    return ""
