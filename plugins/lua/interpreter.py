"""A script in a Lua interpreter inside this process.

This file only makes the calls; `host.lua` does the work in Lua.  Each request is one call of a Lua
function.  lupa lets one thread at a time into an interpreter, and passes strings as bytes.
"""

import importlib
import logging
import os
import sysconfig
from collections.abc import Callable
from typing import Any, NoReturn

from nbdfork.plugin import ConfigError
from nbdfork.scripting import CallbackFailed, EmbeddedInterpreter

log = logging.getLogger(__name__)

_HOST = "host.lua"
_POSIX = "posix.lua"

_HAS_POPEN = b"local pipe = select(2, pcall(io.popen, 'exit')) return io.type(pipe) == 'file'"

_VERSIONS = ("5.3", "5.4", "5.5")

_DEFAULT_VERSION = "5.4"


class LuaInterpreter(EmbeddedInterpreter):
    """A Lua interpreter for the script at *path*, which it has not loaded yet.

    Raises `ConfigError` if there is no Lua.
    """

    def __init__(self, path: str, on_shutdown: Callable[[], None]) -> None:
        self._lua = _runtime_class()(
            encoding=None,
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
        )
        if not self._lua.execute(_HAS_POPEN):
            from .children import Children

            children = Children()
            ways = (children.start, children.let_go, children.wait, children.forget)
            self._run(_POSIX, *ways)
        self._perform, self._exit = self._run(
            _HOST,
            os.fsencode(path),
            (sysconfig.get_config_var("MULTIARCH") or "").encode(),
            log.isEnabledFor(logging.DEBUG),
            self._debug,
            on_shutdown,
        )

    def _run(self, name: str, *arguments: object) -> Any:
        """Run a Lua file of this plugin, and return what it returns."""
        with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
            return self._lua.execute(file.read(), *arguments)

    # -- calls --------------------------------------------------------------------------

    def call(
        self,
        operation: str,
        payload: bytes | memoryview = b"",
        *,
        handle: int = 0,
        flags: int = 0,
        count: int = 0,
        offset: int = 0,
    ) -> tuple[int, bytes]:
        process = os.getpid()
        error, value, answer = self._perform(
            operation.encode(), handle, bytes(payload), flags, count, offset
        )
        if os.getpid() != process:
            self._end_child(error, value, answer)
        if error:
            raise CallbackFailed(error, answer.decode(errors="backslashreplace"))
        return value, answer

    def pread(self, handle: int, count: int, offset: int) -> bytes:
        return self.call("pread", handle=handle, count=count, offset=offset)[1]

    def _end_child(self, error: int, status: int, text: bytes) -> NoReturn:
        """End a child process that the script forked: it must not go on as a server."""
        if error and status < 0:
            log.error("%s", text.decode(errors="backslashreplace"))
            status = 1
        self._exit(status)
        raise AssertionError("os.exit has returned")

    def _debug(self, text: bytes) -> None:
        log.debug("%s", text.decode(errors="backslashreplace"))

    def close(self) -> None:
        del self._perform, self._exit, self._lua  # the last references, so the Lua state closes


def _runtime_class() -> Callable[..., Any]:
    version = os.environ.get("NBDFORK_LUA", _DEFAULT_VERSION)
    if version not in _VERSIONS:
        raise ConfigError(f"lua: NBDFORK_LUA={version}: set it to one of {', '.join(_VERSIONS)}")
    try:
        import lupa
    except ImportError as error:
        raise ConfigError('the lua plugin needs lupa: pip install "nbdfork[lua]"') from error
    name = f"lupa.lua{version.replace('.', '')}"
    try:
        # Lua modules written in C expect Lua's own functions to be global in the process.
        with lupa.allow_lua_module_loading():
            runtime_class: Callable[..., Any] = importlib.import_module(name).LuaRuntime
    except ImportError as error:
        raise ConfigError(
            f'lua: this lupa has no Lua {version}: set NBDFORK_LUA, or pip install "nbdfork[lua]"'
        ) from error
    return runtime_class
