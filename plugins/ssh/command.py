"""The ssh(1) command that carries SFTP: how it is run, and what it says when it fails.

It is run without a terminal and never asks anything: a password is given to it by a script of
ours (SSH_ASKPASS).  What it writes to standard error tells why there is no connection.
"""

import collections
import contextlib
import fcntl
import logging
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .._link.renewal import Lost
from .sftp import Sftp

log = logging.getLogger(__name__)

_ASKPASS = "#!/bin/sh\nprintf '%s\\n' \"$NBDFORK_SSH_PASSWORD\"\n"

_PIPE_SIZE = 1024 * 1024
"""As much as an ordinary user may have: fewer changes between the processes (bytes)."""

_HINTS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "the host's key is not the one that is known: somebody may be listening; if it has really"
        " been changed, remove the old one with ssh-keygen -R, or name another file by known-hosts="
    ),
    "host key is known for": (
        "the host's key is not known: connect to it once with ssh(1), which asks, or name the file"
        " that has it by known-hosts="
    ),
    "Permission denied (": "the host does not let us in: see user=, password= and identity=",
}
"""What the user can do, by what ssh says."""


class Recipe(NamedTuple):
    """How a connection is made: the command, and the password, if there is one."""

    words: Sequence[str]
    password: str | None
    shown: str
    """The far end as it appears in messages."""


class Connection:
    """SFTP through a new ssh process.  Making it raises `Lost`, which says why it failed."""

    def __init__(self, recipe: Recipe) -> None:
        self._said: collections.deque[str] = collections.deque(maxlen=16)
        with _environment(recipe.password) as environment:
            self._process = subprocess.Popen(
                recipe.words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                bufsize=0,
                start_new_session=True,  # no terminal to ask on, and none to be interrupted from
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
            pipes = self._process.stdin.fileno(), self._process.stdout.fileno()
            for fd in pipes:
                with contextlib.suppress(OSError):  # the user may have too many of them
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            self.sftp = Sftp(*pipes)
            try:
                self.sftp.start()
            except Lost as error:
                self.close()
                raise Lost(self._reason(error)) from error

    def _listen(self) -> None:
        """Take what ssh says."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").strip()
            log.debug("ssh: %s", text)
            if not text.startswith("debug"):
                self._said.append(text)

    def _reason(self, error: Lost) -> str:
        """Return why ssh has ended, in a line."""
        said = [line for line in self._said if line]
        for line in said:
            for part, hint in _HINTS.items():
                if part in line:
                    return f"{line}: {hint}" if part.startswith("Permission") else hint
        return ": ".join(said[-2:]) or f"{error.strerror} (ssh: {self._process.returncode})"

    def close(self) -> None:
        """End ssh.  The pipes stay until nobody refers to them: a thread may still be about to use
        their numbers, which must not mean another connection by then.
        """
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()


@contextlib.contextmanager
def _environment(password: str | None) -> Iterator[Mapping[str, str]]:
    """Yield the environment for ssh; as long as it lasts, the script with the password is there."""
    environment = {**os.environ, "LC_ALL": "C"}
    for name in ("SSH_ASKPASS", "DISPLAY"):
        environment.pop(name, None)  # nobody is to see a window
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
