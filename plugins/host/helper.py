"""A worker's helper: the fork of the template that runs the callbacks for the worker's clients.

Here is the funnel from what goes wrong in it to an `OSError`: an error that the script gives fails
the one request; the death of the helper ends the worker, and both are replaced.
"""

import errno
import logging
import os
import re
import signal

from .connection import Connection, Failed, HelperGone
from .template import Template

log = logging.getLogger(__name__)


class ScriptError(OSError):
    """A callback failed.  The client gets errno and text, the log learns where it was, too.

    Perl says that itself, at the end: "at PATH line N."
    """

    def __init__(self, path: str, callback: str, code: int, text: str) -> None:
        super().__init__(code, re.sub(rf" at {re.escape(path)} line \d+\.?$", "", text))
        self._where = "" if path in text else f"{path}: "
        self._callback = callback
        self._text = text

    def __str__(self) -> str:
        return f"{self._where}{self._callback}: {self._text}"


class Helper:
    """The helper of this process, for the script at *path*.

    Making one asks the *template* to fork.  All methods raise OSError.
    """

    def __init__(self, template: Template, path: str, callbacks: frozenset[str]) -> None:
        self.callbacks = callbacks
        self._template = template
        self._path = path
        self._is_mourned = False
        self._connection: Connection
        try:
            self._connection, self._pid = template.fork()
        except Failed as error:
            raise ScriptError(path, "starting", error.code, error.text) from error
        except HelperGone as error:
            raise OSError(errno.EIO, f"the helper that is to be forked is gone: {error}") from error

    def call(
        self,
        callback: str,
        payload: bytes | memoryview = b"",
        *,
        handle: int = 0,
        flags: int = 0,
        count: int = 0,
        offset: int = 0,
    ) -> tuple[int, bytes]:
        """Call a callback; return value and payload of the reply."""
        try:
            return self._connection.call(
                callback, payload, handle=handle, flags=flags, count=count, offset=offset
            )
        except Failed as error:
            raise ScriptError(self._path, callback, error.code, error.text) from None
        except HelperGone as error:
            raise self._died(error) from None

    def pread(self, handle: int, count: int, offset: int) -> bytearray:
        """Read from the disk of *handle*."""
        try:
            return self._connection.pread(handle, count, offset)
        except Failed as error:
            raise ScriptError(self._path, "pread", error.code, error.text) from None
        except HelperGone as error:
            raise self._died(error) from None

    def error(self, callback: str, text: str) -> ScriptError:
        """Return the error for a callback that has answered nonsense."""
        return ScriptError(self._path, callback, errno.EIO, text)

    def _died(self, reason: HelperGone) -> OSError:
        """Return what clients are told now that the helper is gone, and end this process.

        What its clients have sent is answered with the error, and their connections are closed.
        """
        text = "the helper died"
        if not self._is_mourned:
            self._is_mourned = True
            self._connection.close()  # it may be alive, and have said what nobody understands
            text = f"the helper died: {self._template.fate_of(self._pid)}"
            log.error("%s: %s (%s)", self._path, text, reason)
            os.kill(os.getpid(), signal.SIGTERM)
        return OSError(errno.EIO, text)

    @property
    def is_gone(self) -> bool:
        """Whether it has died."""
        return self._is_mourned

    def end(self) -> None:
        """Let the helper end, and wait until it has."""
        if not self._is_mourned:
            self._connection.close()
            self._template.fate_of(self._pid)
