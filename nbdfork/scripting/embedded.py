"""A script in an interpreter of this process, as those that have a library allow it.

After a fork both processes have the interpreter, each its own: what the script has in its variables
is inherited.  What it does in the end, when the interpreter is closed, is done once: in the process
that has served all clients, or, if each client has one, in the one that has loaded the script.
"""

import os
from abc import abstractmethod
from typing import Unpack

from nbdfork.plugin import Buffer
from nbdfork.scripting.plugin import Engine, ScriptPlugin
from nbdfork.scripting.script import Numbers, Script, Shutdown


class Interpreter:
    """An interpreter that loads a script; `call` makes all requests, from the first to the last."""

    def __init__(self) -> None:
        self._shutdown = Shutdown()
        self._process = os.getpid()
        self._ends_here = True

    @abstractmethod
    def call(
        self, operation: str, payload: bytes | memoryview = b"", **numbers: Unpack[Numbers]
    ) -> tuple[int, bytes]:
        """Carry out one of `frames.OPERATIONS`; return value and payload.  Raises `Failed`."""

    @abstractmethod
    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        """Read *count* bytes of the disk from *offset*.  Raises `Failed`."""

    @abstractmethod
    def _close(self) -> None:
        """Let the script do what it does in the end."""

    def serve(self, *, one_process: bool) -> None:
        """Here, maybe in a fork, clients are served; *one_process* says whether they all are."""
        self._shutdown.serve()
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._ends_here = one_process

    def leave_the_end_to_workers(self) -> None:
        """The script is closed in the process that serves."""
        self._ends_here = False

    def end(self) -> None:
        """There are no more calls in this process."""
        if self._ends_here:
            self._ends_here = False
            self._close()


class EmbeddedPlugin(ScriptPlugin):
    """What the plugins have in common whose scripts run in this process."""

    _interpreter: Interpreter

    def interpreter(self, path: str) -> Interpreter:
        """Return an interpreter that is to load the script at *path*.  Raises `ConfigError`."""
        raise NotImplementedError

    def start(self, path: str) -> Engine:
        self._interpreter = self.interpreter(path)
        return self._interpreter

    def get_ready(self) -> None:
        super().get_ready()
        if self.one_process():
            self._interpreter.leave_the_end_to_workers()

    def serve(self, path: str, callbacks: frozenset[str]) -> Script:
        self._interpreter.serve(one_process=self.one_process())
        return _Embedded(self._interpreter, path, callbacks)


class _Embedded(Script):
    def __init__(self, interpreter: Interpreter, path: str, callbacks: frozenset[str]) -> None:
        super().__init__(interpreter, path, callbacks)
        self._interpreter = interpreter

    def end(self) -> None:
        self._interpreter.end()
