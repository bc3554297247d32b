"""One run of a script: arguments and standard input go in, output and exit status come out.

It knows nothing about methods or clients.  Input and output are pipes, and not files, because a
script may open /dev/stdin or /dev/stderr by name, and more than once.
"""

import errno
import fcntl
import io
import math
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from nbdfork.plugin import Buffer

SHELL = "/bin/sh"

MAX_OUTPUT = 64 * 1024 * 1024
"""The most that a method may print, in bytes: nbdkit's largest read."""

_MAX_ERRORS = 64 * 1024
"""How many bytes of standard error are kept."""

_PIPE = 64 * 1024
"""What a pipe holds by default, in bytes (pipe(7))."""

_LARGE_PIPE = 1024 * 1024
"""The most that a pipe may hold, in bytes: the default of /proc/sys/fs/pipe-max-size."""

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that a script expects to be killed by, as by default."""


class Outcome(NamedTuple):
    """How a run ended: *status* is the exit status, or the negative number of a signal."""

    status: int
    output: bytes = b""
    errors: bytes = b""


class TooMuchOutput(Exception):
    """A script printed more than the limit, and was killed."""


class NobodyWaits(Exception):
    """The client has left, or the time is over, and the script was killed."""


class Patience(NamedTuple):
    """How long to wait for a script: for *seconds* (None: any time), and for `GRACE_SECONDS` once
    the client has left, which *departure* tells (`nbdfork.plugin.client`; -1: there is none).
    """

    seconds: float | None = None
    departure: int = -1


ENDLESS = Patience()

GRACE_SECONDS = 1.0
"""What the server gives other disks, too."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    data: Buffer = b"",
    max_output: int = MAX_OUTPUT,
    patience: Patience = ENDLESS,
) -> Outcome:
    """Run *command*, the path of a program and its arguments, with *data* as standard input.

    A script without a "#!" line is run by the shell, as by execvp(3).  Raises OSError if the
    command cannot be run, `TooMuchOutput` if it prints more than *max_output* bytes, `NobodyWaits`
    if *patience* is at an end; then it has been killed, with all that it has started.
    """
    with ExitStack() as opened:
        stdin, writer = _open_input(opened, len(data))
        reader, stdout = _pipe(opened, max_output)
        errors, stderr = _pipe(opened, _PIPE)
        pid = _spawn(command, environment, (stdin, stdout, stderr))
        try:
            for end in (stdin, stdout, stderr):
                end.close()
            waiting = _Waiting(patience, pid)
            printed = _exchange(data, writer, reader, errors, max_output, waiting)
            waiting.until_it_has_ended()
        except BaseException:
            _kill(pid)
            raise
        finally:
            status = os.waitpid(pid, 0)[1]
    return Outcome(os.waitstatus_to_exitcode(status), *printed)


def _open_input(opened: ExitStack, size: int) -> tuple[io.FileIO, io.FileIO | None]:
    """Return the script's standard input, and the end to which its *size* bytes are written."""
    if not size:
        return opened.enter_context(io.FileIO(os.devnull)), None
    stdin, writer = _pipe(opened, size)
    os.set_blocking(writer.fileno(), False)
    return stdin, writer


def _pipe(opened: ExitStack, size: int = 0) -> tuple[io.FileIO, io.FileIO]:
    """Return the ends of a pipe through which up to *size* bytes will pass."""
    reader, writer = os.pipe()
    ends = (
        opened.enter_context(io.FileIO(reader, "r")),
        opened.enter_context(io.FileIO(writer, "w")),
    )
    if size > _PIPE:
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        except PermissionError:
            pass  # this user has many large ones (pipe(7)), so this will take longer
    return ends


def _spawn(
    command: Sequence[str], environment: Mapping[str, str], ends: Sequence[io.FileIO]
) -> int:
    """Start *command* with *ends* as its descriptors 0, 1 and 2; return its pid."""
    actions = [(os.POSIX_SPAWN_DUP2, end.fileno(), fd) for fd, end in enumerate(ends)]

    def spawn(*words: str) -> int:
        return os.posix_spawn(
            words[0],
            words,
            environment,
            file_actions=actions,
            setsigmask=(),
            setsigdef=_IGNORED_BY_PYTHON,
        )

    try:
        return spawn(*command)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return spawn(SHELL, *command)


def _kill(pid: int) -> None:
    """Kill a script that has not been waited for, and all that it has started."""
    import psutil

    with suppress(psutil.Error):  # they cannot be seen from everywhere
        for process in psutil.Process(pid).children(recursive=True):
            process.kill()
    os.kill(pid, signal.SIGKILL)


class _Waiting:
    """Waits for a script, process *pid*, as long as there is *patience*."""

    def __init__(self, patience: Patience, pid: int) -> None:
        self._deadline = math.inf
        if patience.seconds is not None:
            self._deadline = time.monotonic() + patience.seconds
        self._pid = pid
        self._departure = patience.departure
        self._poll = select.poll()
        if self._departure >= 0:
            self._poll.register(self._departure, 0)
        self.register, self.unregister = self._poll.register, self._poll.unregister

    def wait(self) -> list[tuple[int, int]]:
        """Return what has happened to the descriptors registered.  Raises `NobodyWaits`."""
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise NobodyWaits
            happened = self._poll.poll(None if left == math.inf else left * 1000)
            if self._departure not in (fd for fd, _ in happened):
                if happened:
                    return happened
                continue
            self._poll.unregister(self._departure)
            self._departure = -1
            self._deadline = min(self._deadline, time.monotonic() + GRACE_SECONDS)

    def until_it_has_ended(self) -> None:
        """Wait for a script that has closed its output."""
        if self._departure < 0 and self._deadline == math.inf:
            return  # whoever reaps it waits as long
        process = os.pidfd_open(self._pid)
        try:
            self._poll.register(process, select.POLLIN)
            self.wait()
        finally:
            os.close(process)


def _exchange(
    data: Buffer,
    writer: io.FileIO | None,
    output: io.FileIO,
    errors: io.FileIO,
    max_output: int,
    waiting: _Waiting,
) -> tuple[bytes, bytes]:
    """Write *data*, and read output and errors, in whatever order the script handles them.

    A script that has closed its output may still read its input.
    """
    printed, said = bytearray(), bytearray()
    steps: dict[int, Callable[[], bool]] = {
        output.fileno(): lambda: _read(output, printed, max_output, cut=False),
        errors.fileno(): lambda: _read(errors, said, _MAX_ERRORS, cut=True),
    }
    for fd in steps:
        waiting.register(fd, select.POLLIN)
    if writer is not None:
        steps[writer.fileno()] = _Feed(writer, data).write
        waiting.register(writer, select.POLLOUT)
    while steps:
        for fd, _ in waiting.wait():
            if not steps[fd]():
                waiting.unregister(fd)
                del steps[fd]
    return bytes(printed), bytes(said)


def _read(end: io.FileIO, found: bytearray, limit: int, *, cut: bool) -> bool:
    """Append what there is to read to *found*; return False at the end of file.

    What exceeds *limit* bytes is cut off, or raises `TooMuchOutput`.
    """
    piece = os.read(end.fileno(), _LARGE_PIPE)
    found += piece
    if len(found) > limit:
        if not cut:
            raise TooMuchOutput
        del found[limit:]
    return bool(piece)


class _Feed:
    """Data that is written to a pipe as it takes it."""

    def __init__(self, writer: io.FileIO, data: Buffer) -> None:
        self._writer = writer
        self._unsent = memoryview(data)

    def write(self) -> bool:
        """Write what the pipe takes; return False when everything is written and it is closed."""
        try:
            self._unsent = self._unsent[os.write(self._writer.fileno(), self._unsent) :]
        except BrokenPipeError:
            self._unsent = self._unsent[:0]  # the script need not read its input
        if not self._unsent:
            self._writer.close()
        return bool(self._unsent)


def save_program(path: str, content: bytes) -> None:
    """Save *content* as a program that only this user can read and run."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o700)) as file:
        file.write(content)
