"""A worker's helper: the fork of the template that runs the callbacks for the worker's clients.

If the helper dies, its worker ends too; the server starts a new worker, which gets a new helper.
"""

import errno
import logging
import os
import select
import signal
from contextlib import suppress
from typing import Unpack

from nbdfork.plugin import Buffer
from nbdfork.scripting.channel import HelperChannel, HelperGone
from nbdfork.scripting.guard import Guard
from nbdfork.scripting.script import CallbackFailed, RequestFields, Script, ScriptError
from nbdfork.scripting.template import Template

log = logging.getLogger(__name__)

_SECONDS_TO_END = 1.0
"""For a helper that does not speak the protocol."""

_SECONDS_FOR_THE_SCRIPT = 8.0
"""For what a script does at its end."""


class Helper(Script):
    """The helper of this process, for the script at *path*.

    Making one asks the *template* to fork.  All methods raise OSError.
    """

    def __init__(self, template: Template, path: str, callbacks: frozenset[str]) -> None:
        self._template = template
        self._channel: HelperChannel
        try:
            self._channel, self._pid = template.fork()
        except CallbackFailed as error:
            raise ScriptError(path, "starting", error.code, error.text) from error
        except HelperGone as error:
            raise OSError(errno.EIO, f"the template cannot fork a helper: {error}") from error
        self._process = os.pidfd_open(self._pid)  # unlike the pid, it is never reused
        self._guard = Guard(self._pid)
        super().__init__(self._channel, path, callbacks)

    def call(
        self, callback: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        try:
            return super().call(callback, payload, **fields)
        except HelperGone as error:
            raise self._died(error) from None

    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        try:
            return super().pread(handle, count, offset)
        except HelperGone as error:
            raise self._died(error) from None

    def _died(self, reason: HelperGone) -> OSError:
        """Return the error for clients now that the helper is gone, and have this worker end.

        Requests that clients have sent already are answered with this error.
        """
        text = "the helper died"
        if not self.is_gone:
            self.is_gone = True
            self._channel.close()
            self._kill_unless_it_ends(_SECONDS_TO_END)
            self._guard.dismiss()
            text = f"the helper died: {self._template.fate_of(self._pid)}"
            log.error("%s: %s (%s)", self._path, text, reason)
            os.kill(os.getpid(), signal.SIGTERM)
        return OSError(errno.EIO, text)

    def _kill_unless_it_ends(self, seconds: float) -> None:
        """End a helper that may never notice that its connection closed, or has its script's own
        reasons to stay: nobody else gets a helper as long as it is waited for.
        """
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        if not poll.poll(seconds * 1000):
            log.warning("%s: killing a helper that does not end", self._path)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def end(self) -> None:
        """Let the helper end, and wait until it has."""
        if not self.is_gone:
            self._channel.close()
            self._kill_unless_it_ends(_SECONDS_FOR_THE_SCRIPT)
            self._guard.dismiss()
            self._template.fate_of(self._pid)
