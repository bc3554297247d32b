"""A script in an interpreter of this process, as those that have a library allow it.

After a fork both processes have the interpreter, each its own: what the script has in its variables
is inherited.  What it does in the end, when the interpreter is closed, is done once, by `unload`.
"""

import os
from abc import abstractmethod
from typing import Unpack

from nbdfork.plugin import Buffer, Server
from nbdfork.scripting.plugin import Engine, ScriptPlugin
from nbdfork.scripting.script import Numbers, Script


class Interpreter:
    """An interpreter that loads a script; `call` makes all requests, from the first to the last.

    The script may stop *server*.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._process = os.getpid()

    @abstractmethod
    def call(
        self, operation: str, payload: bytes | memoryview = b"", **numbers: Unpack[Numbers]
    ) -> tuple[int, bytes]:
        """Carry out one of `frames.OPERATIONS`; return value and payload.  Raises `Failed`."""

    @abstractmethod
    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        """Read *count* bytes of the disk from *offset*.  Raises `Failed`."""

    @abstractmethod
    def close(self) -> None:
        """Let the script do what it does in the end.  There are no more calls."""

    def serve(self) -> None:
        """Here, maybe in a fork, clients are served."""
        self._process = os.getpid()


class EmbeddedPlugin(ScriptPlugin):
    """What the plugins have in common whose scripts run in this process."""

    _interpreter: Interpreter

    def interpreter(self, path: str) -> Interpreter:
        """Return an interpreter that is to load the script at *path*.  Raises `ConfigError`."""
        raise NotImplementedError

    def start(self, path: str) -> Engine:
        self._interpreter = self.interpreter(path)
        return self._interpreter

    def serve(self, path: str, callbacks: frozenset[str]) -> Script:
        self._interpreter.serve()
        return Script(self._interpreter, path, callbacks)

    def unload(self) -> None:
        super().unload()
        self._interpreter.close()
