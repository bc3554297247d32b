"""The ssh(1) command that carries SFTP: how it is run, and the errors it reports.

It runs without a terminal and never asks anything; a password is given to it by a small script
(SSH_ASKPASS).  What it writes to standard error says why there is no connection.
"""

import collections
import contextlib
import errno
import fcntl
import logging
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .._link.reconnecting import LinkLost
from .._link.texts import shown
from .._link.timeout import Patience
from .sftp import Sftp

log = logging.getLogger(__name__)

_ASKPASS = "#!/bin/sh\nprintf '%s\\n' \"$NBDFORK_SSH_PASSWORD\"\n"

_PIPE_SIZE = 1024 * 1024
"""The most that an ordinary user may have, in bytes; larger pipes mean fewer context switches."""

_MOST_LINE = 1024
"""How many bytes of what ssh writes are looked at as one line."""

_NUMBERS = {
    "Permission denied (": errno.EACCES,
    "Host key verification failed": errno.EACCES,
    "Connection refused": errno.ECONNREFUSED,
    "No route to host": errno.EHOSTUNREACH,
    "Network is unreachable": errno.ENETUNREACH,
    "timed out": errno.ETIMEDOUT,
}
"""What ssh says, and the number of the error that people expect."""

_HINTS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "the host's key is not the one that is known: somebody may be listening; if it was really"
        " changed, remove the old one with ssh-keygen -R, or name another file with known-hosts="
    ),
    "host key is known for": (
        "the host's key is not known: connect to it once with ssh(1), which asks, or name the file"
        " that has it with known-hosts="
    ),
    "Permission denied (": "the host does not let us in: see user=, password= and identity=",
}
"""What the user can do about what ssh says."""


class Recipe(NamedTuple):
    """How to connect: the command to run, and the password, if one is needed."""

    words: Sequence[str]
    password: str | None
    shown: str
    """The name of the server in messages."""


class SshProcess:
    """A new ssh process, and SFTP through it.  Raises `LinkLost`, which says why it failed."""

    def __init__(self, recipe: Recipe, patience: Patience) -> None:
        self._said: collections.deque[str] = collections.deque(maxlen=16)
        with _environment(recipe.password) as environment:
            self._process = subprocess.Popen(
                recipe.words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                bufsize=0,
                # No terminal to ask on, and none to be interrupted from.  A worker has none, and
                # what is in its group is killed with it.
                start_new_session=os.getpgrp() != os.getpid(),
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
            pipes = self._process.stdin.fileno(), self._process.stdout.fileno()
            for fd in pipes:
                with contextlib.suppress(OSError):  # the user may have used up the limit
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            self.sftp = Sftp(*pipes, patience)
            try:
                self.sftp.start()
            except LinkLost as error:
                self.close()
                raise self._reason(error) from error
            except OSError:  # nobody waits for it any more
                self.close()
                raise

    def _listen(self) -> None:
        """Keep the last lines that ssh writes to standard error."""
        assert self._process.stderr is not None
        while line := self._process.stderr.readline(_MOST_LINE):
            text = shown(line)
            log.debug("ssh: %s", text)
            if not text.startswith("debug"):
                self._said.append(text)

    def _reason(self, error: LinkLost) -> LinkLost:
        """Return why ssh ended, in one line."""
        said = [line for line in self._said if line]
        if not said or error.errno == errno.ETIMEDOUT:
            text = f"{error.strerror} (ssh: {self._process.returncode})"
            return LinkLost(": ".join([*said[-1:], text]), error.errno or errno.EIO)
        number = next(
            (number for part, number in _NUMBERS.items() if any(part in line for line in said)),
            errno.EIO,
        )
        for line in said:
            for part, hint in _HINTS.items():
                if part in line:
                    text = f"{line}: {hint}" if part.startswith("Permission") else hint
                    return LinkLost(text, number)
        return LinkLost(": ".join(said[-2:]), number)

    def close(self) -> None:
        """End ssh.

        The pipes are closed only when nothing refers to them any more: a thread may still be about
        to use their numbers, which must not belong to another connection by then.
        """
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(1)  # a program that ssh started may still have the pipe


@contextlib.contextmanager
def _environment(password: str | None) -> Iterator[Mapping[str, str]]:
    """Yield the environment for ssh, and keep the script that prints the password meanwhile."""
    environment = {**os.environ, "LC_ALL": "C"}
    for name in ("SSH_ASKPASS", "DISPLAY"):
        environment.pop(name, None)  # or ssh might open a window to ask for the password
    if password is None:
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="nbdfork-ssh") as directory:
        script = os.path.join(directory, "askpass")
        with open(os.open(script, os.O_WRONLY | os.O_CREAT, 0o700), "w") as file:
            file.write(_ASKPASS)
        environment |= {
            "SSH_ASKPASS": script,
            "SSH_ASKPASS_REQUIRE": "force",
            "NBDFORK_SSH_PASSWORD": password,
        }
        yield environment
