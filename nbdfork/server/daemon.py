"""Go into the background and tell the waiting foreground how it went; write the pidfile.

The foreground process waits for one message on a pipe and exits with 0 only if it is that the
server is ready.  python-daemon does the detaching; what it would do at the wrong time (change
the user before the pidfile is written, write the pidfile after it) is done by the caller.
"""

import os
import sys
from collections.abc import Iterable

import daemon

from nbdfork.server.errors import StartupError

_READY = b"ready"


class Foreground:
    """A server that stays in the foreground: there is nobody to be told."""

    def tell_ready(self) -> None:
        """The server is ready."""

    def tell_failed(self, error: StartupError) -> None:
        """The server cannot start: leave *error* to the caller's caller."""
        raise error


class Background:
    """The detached server's way to tell the process that started it."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def tell_ready(self) -> None:
        """The server is ready: the foreground process exits with 0."""
        self._tell(_READY)

    def tell_failed(self, error: StartupError) -> None:
        """The server cannot start: the foreground process shows *error* and exits with 1."""
        self._tell(str(error).encode())

    def _tell(self, message: bytes) -> None:
        try:
            os.write(self._pipe, message)
        except BrokenPipeError:
            pass  # the foreground process was killed while it waited
        os.close(self._pipe)


def open_descriptors() -> set[int]:
    """Return the file descriptors that are open in this process."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}
    return {fd for fd in listed if is_open(fd)}  # without the one that was used to list them


def is_open(fd: int) -> bool:
    """Return whether *fd* is an open file descriptor."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def detach(inherited: Iterable[int], keep_stderr: bool) -> Background:
    """Return in a new session, in the root directory, with the standard streams on /dev/null.

    The calling process never returns from here.  Descriptors that were *inherited* at start
    are closed; all that were opened since are kept, plugins' own included.
    """
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        _wait_in_foreground(reader, child)
    os.close(reader)
    context = daemon.DaemonContext(
        detach_process=True,  # or it would guess, and stay attached where pid 1 started us
        working_directory="/",
        umask=0o022,
        files_preserve=sorted(open_descriptors() - set(inherited) | {writer}),
        stderr=sys.stderr if keep_stderr else None,
        signal_map={},
        prevent_core=False,
    )
    context.open()
    return Background(writer)


def _wait_in_foreground(reader: int, child: int) -> None:
    """Exit as the detached server says."""
    message = os.read(reader, 65536)  # one write; workers may hold the other end for longer
    os.waitpid(child, 0)  # which only forked the server's process
    if message == _READY:
        os._exit(0)
    text = message.decode() or "the server died while it was starting"
    print(f"nbdfork: error: {text}", file=sys.stderr, flush=True)
    os._exit(1)


def write_pidfile(path: str) -> None:
    """Write this process's number to *path*, whatever was there.  Raises `StartupError`."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, f"{os.getpid()}\n".encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise StartupError(f"cannot write the pidfile {path}: {error.strerror}") from error
