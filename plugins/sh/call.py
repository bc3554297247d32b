"""The methods of a script: each call is one run, and the exit status says how it ended.

A run that fails becomes a `MethodError`: one line that names the script and the method, with the
errno that the script wrote to standard error.  Exit statuses and the format of errors are those of
nbdkit-sh-plugin(3).
"""

import errno
import logging
import os
import re
import signal
from collections.abc import Callable

from nbdfork.plugin import Buffer, client

from .process import MAX_OUTPUT, NobodyWaits, Outcome, Patience, TooMuchOutput, run

log = logging.getLogger(__name__)

OK = 0
MISSING = 2
FALSE = 3

_MAX_SAID = 4096
"""So many characters of a script's first line of errors are told."""

_SECONDS_TO_END = 5.0
"""How long the server, which ends, waits for `unload`."""

_ERRNO = re.compile(rb"(E[A-Z]+)(?:\s+|$)", re.IGNORECASE)

_ERRNOS = {
    name.encode(): getattr(errno, name)
    for name in (
        *("EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "EOVERFLOW", "ESHUTDOWN"),
        *("ENOTSUP", "EOPNOTSUPP", "EROFS", "EDQUOT", "EFBIG"),
    )
}
"""The names that are recognized; any other text is a message, with the errno EIO."""


class MethodError(OSError):
    """A method failed.  The client gets the errno; the log gets everything."""

    def __init__(self, path: str, method: str, code: int, message: str) -> None:
        super().__init__(code, f"{method} failed in the script")
        self._text = f"{path}: {method}: {message}"

    def __str__(self) -> str:
        return self._text


class ShellScript:
    """The methods of a script, to be called.

    *locate* returns the path of the program to run for a method, or the outcome if that is known
    without a run.  *directory* is the scripts' temporary directory.
    """

    def __init__(self, locate: Callable[[str], str | Outcome], directory: str) -> None:
        self.directory = directory
        self._locate = locate
        self._environment = {**os.environ, "tmpdir": directory}

    def call(
        self, method: str, *arguments: object, data: Buffer = b"", max_output: int = MAX_OUTPUT
    ) -> bytes | None:
        """Return what a method prints, or None if the script lacks it.

        Raises `MethodError`.
        """
        outcome = self._outcome(method, arguments, data, max_output)
        if outcome.status == FALSE:
            raise self.error(method, "exited with status 3 (false), but is no yes-or-no question")
        return outcome.output if outcome.status == OK else None

    def is_true(self, method: str, *arguments: object, default: bool) -> bool:
        """Return the answer of a method that answers by its exit status."""
        status = self._outcome(method, arguments, b"", MAX_OUTPUT).status
        return default if status == MISSING else status == OK

    def ask(self, method: str, *arguments: object) -> str | None:
        """Return what a method prints as text, without the last newline; None if it is missing."""
        output = self.call(method, *arguments)
        return None if output is None else os.fsdecode(output).removesuffix("\n")

    def error(self, method: str, message: str, code: int = errno.EIO) -> MethodError:
        """Return the error of a method."""
        path = self._locate(method)
        return MethodError(path if isinstance(path, str) else "", method, code, message)

    def _outcome(
        self, method: str, arguments: tuple[object, ...], data: Buffer, max_output: int
    ) -> Outcome:
        """Run a method; return an outcome of status OK, MISSING or FALSE."""
        path = self._locate(method)
        if isinstance(path, Outcome):
            return path
        try:
            command = [path, method, *map(str, arguments)]
            outcome = run(command, self._environment, data, max_output, _patience(method))
        except NobodyWaits:
            raise self.error(
                method, "nobody waits for it any more: killed", errno.ESHUTDOWN
            ) from None
        except TooMuchOutput:
            raise self.error(method, f"printed more than {max_output} bytes") from None
        except OSError as error:
            raise self.error(method, _why_not_run(path, error)) from error
        except ValueError as error:
            raise self.error(method, f"an argument cannot be passed on: {error}") from error
        if outcome.status in (OK, MISSING, FALSE):
            if outcome.errors:
                log.debug("%s: %s: %s", path, method, os.fsdecode(outcome.errors).rstrip())
            return outcome
        raise self._failure(method, outcome)

    def _failure(self, method: str, outcome: Outcome) -> MethodError:
        """Return the error of a run that failed; the message is its first line of errors."""
        match = _ERRNO.match(outcome.errors)
        code = _ERRNOS.get(match[1].upper()) if match else None
        text = outcome.errors[match.end() :] if match and code else outcome.errors
        lines = os.fsdecode(text).splitlines()
        if len(lines) > 1:
            log.debug("%s: its standard error:\n%s", method, os.fsdecode(text).rstrip())
        message = f"exited with status {outcome.status}"
        if outcome.status < 0:
            message = f"was ended by a signal ({signal.strsignal(-outcome.status)})"
        if lines:
            message += f": {lines[0][:_MAX_SAID]}"
        return self.error(method, message, code or errno.EIO)


def _patience(method: str) -> Patience:
    """Return how long to wait for *method*; what is done for the disk is done without a client."""
    if method == "unload":
        return Patience(_SECONDS_TO_END)
    return Patience(departure=-1 if method == "close" else client.departure())


def _why_not_run(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT and os.path.exists(path):
        return "the program that its #! line names does not exist"
    if error.errno == errno.EACCES:
        return f"cannot be run: make it executable: chmod +x {path}"
    return f"cannot be run: {error.strerror}"
