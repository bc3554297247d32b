"""A worker's helper: the fork of the template that runs the callbacks for the worker's clients.

The death of the helper ends the worker, and both are replaced.
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
from nbdfork.scripting.script import CallbackFailed, RequestFields, Script, ScriptError
from nbdfork.scripting.template import Template

log = logging.getLogger(__name__)

_SECONDS_TO_END = 1.0


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
            raise OSError(errno.EIO, f"the helper that is to be forked is gone: {error}") from error
        self._process = os.pidfd_open(self._pid)  # a number may be that of another one day
        super().__init__(self._channel, path, callbacks)

    def call(
        self, callback: str, payload: bytes | memoryview = b"", **numbers: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        try:
            return super().call(callback, payload, **numbers)
        except HelperGone as error:
            raise self._died(error) from None

    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        try:
            return super().pread(handle, count, offset)
        except HelperGone as error:
            raise self._died(error) from None

    def _died(self, reason: HelperGone) -> OSError:
        """Return what clients are told now that the helper is gone, and end this process.

        What its clients have sent is answered with the error, and their connections are closed.
        """
        text = "the helper died"
        if not self.is_gone:
            self.is_gone = True
            self._channel.close()
            self._kill_unless_it_ends()
            text = f"the helper died: {self._template.fate_of(self._pid)}"
            log.error("%s: %s (%s)", self._path, text, reason)
            os.kill(os.getpid(), signal.SIGTERM)
        return OSError(errno.EIO, text)

    def _kill_unless_it_ends(self) -> None:
        """End a helper that has said what nobody understands, and may never look at us again."""
        ended, _, _ = select.select([self._process], [], [], _SECONDS_TO_END)
        if not ended:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def end(self) -> None:
        """Let the helper end, and wait until it has."""
        if not self.is_gone:
            self._channel.close()
            self._template.fate_of(self._pid)
