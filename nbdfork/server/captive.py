"""The captive command (`--run`): the server lives as long as it does."""

import os
import signal
from collections.abc import Mapping

import psutil

from nbdfork.server import linux

END_SECONDS = 5.0
"""How long the command may take to end once it was told to."""


class Captive:
    """A shell command that has been started."""

    def __init__(self, command: str, variables: Mapping[str, str]) -> None:
        """Start *command* under the shell, with *variables* added to its environment."""
        server = os.getpid()

        def follow_the_server() -> None:
            if not linux.die_with_parent(signal.SIGTERM, server):
                os._exit(1)

        self._process = psutil.Popen(
            command, shell=True, env={**os.environ, **variables}, preexec_fn=follow_the_server
        )

    def has_ended(self) -> bool:
        """Return whether the command has ended."""
        return self._process.poll() is not None

    def tell_to_end(self) -> None:
        """Ask the command, and what it has started, to end; no matter if it has."""
        if self.has_ended():
            return
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                process.terminate()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                pass  # gone; or still root, while we are not: the kernel tells it when we die

    def status(self) -> int:
        """Return the command's exit status, as a shell gives it: 128+N for signal N.

        A command that does not end in time is killed.
        """
        try:
            status: int = self._process.wait(END_SECONDS)
        except psutil.TimeoutExpired:
            try:
                self._process.kill()
                status = self._process.wait(END_SECONDS)
            except (psutil.AccessDenied, psutil.TimeoutExpired):
                return 128 + signal.SIGTERM
        return 128 - status if status < 0 else status
