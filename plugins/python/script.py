"""A script written for nbdkit's Python API: loaded, checked and called.

A script's mistakes become messages here.  While the server starts, they are `ConfigError`: one line
that names the file, the callback and the fix.  Later they are `PythonScriptError`, with the errno
for the client and the traceback for the log.
"""

import errno
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any, TypeVar

from nbdfork.plugin import ConfigError

from . import nbdkit

log = logging.getLogger(__name__)

T = TypeVar("T")

request = nbdkit._request

FAILURES = BaseException
"""What a callback may raise: sys.exit() in it, or a KeyboardInterrupt of its own, ends the request
and not the server.  Nobody else raises such things in a process that serves."""

API_VERSIONS = (1, 2)
REQUIRED = ("open", "get_size", "pread")

_EIO = 5

_MAX_TEXT = 16384
"""So many characters of a traceback are logged: its beginning and its end."""

SIGNATURES = {
    "dump_plugin": "",
    "config": "key, value",
    "config_complete": "",
    "thread_model": "",
    "get_ready": "",
    "after_fork": "",
    "cleanup": "",
    "preconnect": "readonly",
    "list_exports": "readonly, is_tls",
    "default_export": "readonly, is_tls",
    "open": "readonly",
    "close": "h",
    "get_size": "h",
    "export_description": "h",
    "block_size": "h",
    "is_rotational": "h",
    "can_multi_conn": "h",
    "can_write": "h",
    "can_flush": "h",
    "can_trim": "h",
    "can_zero": "h",
    "can_fast_zero": "h",
    "can_fua": "h",
    "can_cache": "h",
    "can_extents": "h",
    "pread": "h, buf, offset, flags",
    "pwrite": "h, buf, offset, flags",
    "flush": "h, flags",
    "trim": "h, count, offset, flags",
    "zero": "h, count, offset, flags",
    "cache": "h, count, offset, flags",
    "extents": "h, count, offset, flags",
}
"""The callbacks, and the arguments they are called with in API version 2."""

SIGNATURES_OF_VERSION_1 = {
    "pread": "h, count, offset",
    "pwrite": "h, buf, offset",
    "flush": "h",
    "trim": "h, count, offset",
    "zero": "h, count, offset, may_trim",
}
"""Those that differ in API version 1."""


class PythonScriptError(OSError):
    """A callback failed while serving.

    The client gets the errno, and the *text*, if there is one; the log gets all about *cause*, an
    exception or a text.
    """

    def __init__(
        self, path: str, callback: str, code: int, cause: BaseException | str, text: str = ""
    ) -> None:
        super().__init__(code, text or f"{callback} failed in the script")
        self._where = f"{path}: {callback}"
        self._cause = cause

    def __str__(self) -> str:
        if isinstance(self._cause, str):
            return f"{self._where}: {self._cause}"
        # The first frame is that of the caller, and not in the script.
        stack = self._cause.__traceback__
        lines = traceback.format_exception(
            type(self._cause), self._cause, stack and stack.tb_next, chain=True
        )
        text = "".join(lines).rstrip()
        if len(text) > _MAX_TEXT:
            text = f"{text[: _MAX_TEXT // 2]} [...] {text[-_MAX_TEXT // 2 :]}"
        return f"{self._where}: {text}"


def _errno_of(cause: BaseException | str) -> int:
    """Return the errno of an exception that has one, or 0: there are numbers that are none."""
    if not isinstance(cause, OSError) or cause.errno not in errno.errorcode:
        return 0
    is_foreign = any(kind.__module__ in ("socket", "ssl") for kind in type(cause).__mro__)
    return 0 if is_foreign or cause.errno is None else cause.errno


def _said_by(cause: BaseException | str) -> str:
    """Return what a script has said about an error that it has given an errno."""
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause)


class PythonScript:
    """A script that has been run, with its callbacks.

    Raises `ConfigError` if it cannot be run, or lacks a required callback.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.module = ModuleType("__main__")
        self.module.__file__ = path
        sys.modules["nbdkit"] = nbdkit
        code = self._compile()
        with self.as_main():
            self._run(code)
        self.api_version = self._api_version()
        self._callbacks = self._find_callbacks()

    # -- loading ------------------------------------------------------------------------

    def _compile(self) -> CodeType:
        try:
            with open(self.path, "rb") as file:
                source = file.read()
        except OSError as error:
            reason = f"cannot read the script: {error.strerror}"
            raise ConfigError(f"python: {self.path}: {reason}") from error
        try:
            return compile(source, self.path, "exec", dont_inherit=True)
        except SyntaxError as error:
            where = self.path if error.lineno is None else f"{self.path}:{error.lineno}"
            raise ConfigError(
                f"python: {where}: {type(error).__name__}: {error.msg}; correct the script"
            ) from error
        except ValueError as error:  # such as a NUL in it
            raise ConfigError(f"python: {self.path}: not a Python script: {error}") from error

    @contextmanager
    def as_main(self) -> Iterator[None]:
        """Make the script the module __main__, which dataclasses and pickle need."""
        previous = sys.modules["__main__"]
        sys.modules["__main__"] = self.module
        try:
            yield
        finally:
            sys.modules["__main__"] = previous

    def _run(self, code: CodeType) -> None:
        with self._starting("loading the script"):
            exec(code, self.module.__dict__)

    def _api_version(self) -> int:
        version = getattr(self.module, "API_VERSION", 1)
        if type(version) is not int or version not in API_VERSIONS:
            raise ConfigError(
                f"python: {self.path}: API_VERSION is {version!r}; set it to 2, or to 1, which is"
                " the default"
            )
        return version

    def _find_callbacks(self) -> dict[str, Callable[..., Any]]:
        for name in REQUIRED:
            if not callable(self.module.__dict__.get(name)):
                state = "not a function" if hasattr(self.module, name) else "missing"
                raise ConfigError(
                    f"python: {self.path}: the callback {name} is {state}; define"
                    f" {name}({self._signature(name)})"
                )
        # A name that is not a function is the script's own variable, and no callback.
        found = {
            name: self.module.__dict__[name]
            for name in SIGNATURES
            if callable(self.module.__dict__.get(name))
        }
        for name, function in found.items():
            self._check_signature(name, function)
        return found

    def _signature(self, name: str) -> str:
        if self.api_version == 1 and name in SIGNATURES_OF_VERSION_1:
            return SIGNATURES_OF_VERSION_1[name]
        return SIGNATURES[name]

    def _check_signature(self, name: str, function: Callable[..., Any]) -> None:
        """Refuse a function of the script that cannot be called with the arguments of the callback.

        Imported functions are not checked: `from functools import cache` does not mean a callback.
        """
        if name not in REQUIRED and getattr(function, "__module__", "") != "__main__":
            return
        expected = self._signature(name)
        try:
            signature = inspect.signature(function)
        except (ValueError, TypeError):
            return  # it is written in C: only a call will tell
        try:
            signature.bind(*expected.split(", ")) if expected else signature.bind()
        except TypeError:
            raise ConfigError(
                f"python: {self.path}: {name}{signature} does not fit API_VERSION"
                f" {self.api_version}; define {name}({expected}){self._other_version(name)}"
            ) from None

    def _other_version(self, name: str) -> str:
        if name not in SIGNATURES_OF_VERSION_1:
            return ""
        return f", or set API_VERSION = {3 - self.api_version}"

    # -- calling ------------------------------------------------------------------------

    def get(self, name: str) -> Callable[..., Any] | None:
        """Return a callback, or None if the script lacks it."""
        return self._callbacks.get(name)

    def constant(self, name: str) -> object:
        """Return a constant of the script, or None."""
        return getattr(self.module, name, None)

    def call_at_startup(self, name: str, *arguments: object) -> Any:
        """Call a callback if there is one.  Raises `ConfigError` if it fails."""
        function = self.get(name)
        if function is None:
            return None
        with self._starting(name):
            return function(*arguments)

    def call(self, name: str, *arguments: object) -> Any:
        """Call a callback, which must exist.  Raises `PythonScriptError`."""
        function = self.get(name)
        if function is None:
            raise self.missing(name)
        request.error = 0
        try:
            return function(*arguments)
        except FAILURES as error:
            raise self.error(name, error) from error

    def converted(self, name: str, convert: Callable[[object], T], found: Any) -> Iterator[T]:
        """Convert the items of what the callback *name* has returned when they are wanted."""
        items: Iterator[object] | None = None
        while True:
            try:
                items = iter(found) if items is None else items
                item = convert(next(items))  # if the script returned a generator, it runs now
            except StopIteration:
                return
            except FAILURES as error:
                raise self.error(name, error) from error
            yield item

    def missing(self, name: str) -> PythonScriptError:
        """Return the error of a callback that the script lacks, though it says it can."""
        request.error = 0
        return self.error(name, "the script does not have this callback, but says it can")

    def error(self, name: str, cause: BaseException | str) -> PythonScriptError:
        """Return the error of a callback.

        Its errno is the one given to set_error, or that of an OSError, or EIO.
        """
        said = request.error or _errno_of(cause)
        text = _said_by(cause) if said else ""
        return PythonScriptError(self.path, name, said or _EIO, cause, text)

    @contextmanager
    def _starting(self, what: str) -> Iterator[None]:
        """Turn what the script raises while the server starts into a `ConfigError`."""
        try:
            yield
        except FAILURES as error:
            if isinstance(error, SystemExit) and type(error) is not SystemExit:
                raise  # a signal ends the server
            if isinstance(error, KeyboardInterrupt) and what != "after_fork":
                raise  # as the user has asked for
            log.debug("%s: %s failed:", self.path, what, exc_info=error)
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == self.path]
            where = f"{self.path}:{lines[-1]}" if lines else self.path
            said = ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))
            failed = f"failed: {said}"
            if isinstance(error, SystemExit):
                failed = f"called sys.exit({error.code!r}): raise an exception instead"
            raise ConfigError(
                f"python: {where}: {what} {failed} (-v shows the traceback)"
            ) from error

    def serve_as_main(self) -> None:
        """Make the script the module __main__ from now on: this process does nothing else."""
        sys.modules["__main__"] = self.module
