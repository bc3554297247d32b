"""Scripts that run inside this process, in an interpreter that is a library.

A fork copies the interpreter, with all that the script has in its variables.  What a script does
at its end, such as flushing its files, happens where it is unloaded, and only there.
"""

from abc import ABC, abstractmethod
from typing import Unpack

from nbdfork.plugin import Buffer
from nbdfork.scripting.plugin import Engine, ScriptPlugin
from nbdfork.scripting.script import RequestFields, Script


class EmbeddedInterpreter(ABC):
    """An interpreter that runs one script; a subclass knows the language.

    Its first call is the operation `load`.  Several threads may call it at the same time.
    """

    @abstractmethod
    def call(
        self, operation: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        """Carry out one of `frames.OPERATIONS`, and return the value and the payload of its reply.

        Raises `CallbackFailed` if the script fails.
        """

    @abstractmethod
    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        """Return *count* bytes of the disk from *offset*.  Raises `CallbackFailed`."""

    @abstractmethod
    def close(self) -> None:
        """Let the script do what it does at its end.  There are no calls after this one."""

    def after_fork(self) -> None:  # noqa: B027 - most need not do anything
        """Called in each process that serves clients, before any call for a client."""


class EmbeddedPlugin(ScriptPlugin):
    """The base class of a plugin for a language whose interpreter runs inside this process.

    A subclass has a `name`, and makes the `interpreter`.
    """

    _interpreter: EmbeddedInterpreter

    @abstractmethod
    def interpreter(self, path: str) -> EmbeddedInterpreter:
        """Return an interpreter for the script at *path*, which it has not loaded yet.

        Raises `ConfigError` if there is none, with what the user has to install.
        """

    def _start(self, path: str) -> Engine:
        self._interpreter = self.interpreter(path)
        return self._interpreter

    def _serve(self, path: str, callbacks: frozenset[str]) -> Script:
        self._interpreter.after_fork()
        return Script(self._interpreter, path, callbacks)

    def unload(self) -> None:
        super().unload()
        self._interpreter.close()
