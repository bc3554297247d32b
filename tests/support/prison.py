"""The sample that tries to break out of its sandbox, served for the tests of what holds it."""

import errno
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from nbdfork.server.sandbox import landlock, seccomp
from tests.support.harness import Server
from tests.support.paths import SAMPLES
from tests.support.raw import Client

ESCAPES = SAMPLES / "escapes.py"

DENIED = errno.EPERM
"""What a client is told of EACCES, which its protocol does not have."""

needs_walls = pytest.mark.skipif(
    not (landlock.scopes() and seccomp.is_available()),
    reason="the kernel cannot confine a worker: Landlock 6 and seccomp are needed",
)

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root could do that at all")


class Prison:
    """Servers of the sample, each with a client that is to notice nothing."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._servers: dict[tuple[str, ...], tuple[Server, Client]] = {}

    def attempt(self, mode: str, allow: str, what: str) -> tuple[int, str]:
        """Return the errno that the attempt ends with, 0 if it succeeds, and what it found."""
        server, witness = self.server(mode, allow)
        client = Client(server).greet()
        error = client.write(what.encode().ljust(512, b"\0"))
        found = client.read(0, 4096).rstrip(b"\0").decode()
        client.close()
        assert witness.read(0, 512) == bytes(512)
        return error, found

    def server(self, mode: str, allow: str, *more: str | Path) -> tuple[Server, Client]:
        key = (mode, allow, *map(str, more))
        if key not in self._servers:
            options = (f"--sandbox={mode}", "--max-clients=8", "--spare-workers=1")
            server = Server(*options, *more, ESCAPES, f"allow={allow}")
            self._servers[key] = (self._stack.enter_context(server), Client(server).greet())
            self._stack.callback(self._servers[key][1].close)
        return self._servers[key]

    def escapes(self, allow: str, what: str) -> bool:
        """Return whether the attempt succeeds in a sandbox; without one it has to."""
        error, _ = self.attempt("off", allow, what)
        assert error == 0, f"{what} fails without a sandbox, too: {os.strerror(error)}"
        return self.attempt("require", allow, what)[0] == 0


def attempts_of(server: Server, *attempts: str) -> list[tuple[int, str]]:
    """Return the error of each attempt, made by one worker, and what it found."""
    client = Client(server).greet()
    done = []
    for what in attempts:
        error = client.write(what.encode().ljust(512, b"\0"))
        done.append((error, client.read(0, 512).rstrip(b"\0").decode()))
    client.close()
    return done
