"""What makes a process a daemon: its descriptors, its session, its pidfile.

python-daemon does the detaching; what it would do at the wrong time (change the user before the
pidfile is written, write the pidfile after it) is done by the caller.
"""

import errno
import os
import resource
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress

import daemon

from nbdfork.server import files
from nbdfork.server.errors import StartupError


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


def allow_descriptors(count: int) -> None:
    """Let this process, and those that it forks, have *count* descriptors, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def open_standard_streams() -> set[int]:
    """Open those of the descriptors 0, 1 and 2 that are closed on the null device; return them.

    Otherwise the next file or socket that is opened would become one of them, and Python has None
    for their streams.
    """
    closed = set()
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if not is_open(fd):
            closed.add(fd)
            null = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so it is this one
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode, closefd=False))  # noqa: SIM115
        elif getattr(sys, name) is None:  # it was closed, and is something else by now
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    return closed


def detach(inherited: Iterable[int], keep: Iterable[int], keep_stderr: bool) -> None:
    """Return in a new session, in the root directory, with the standard streams on /dev/null.

    The calling process is left by two forks.  Descriptors that were *inherited* at start are
    closed; all that were opened since, plugins' own included, and those to *keep* stay open.
    """
    context = daemon.DaemonContext(
        detach_process=True,  # or it would guess, and stay attached where pid 1 started us
        working_directory="/",
        umask=_umask(),
        files_preserve=sorted(open_descriptors() - set(inherited) | set(keep)),
        stderr=sys.stderr if keep_stderr else None,
        signal_map={},
        prevent_core=False,
    )
    context.open()
    for fd in (0, 1, 2):  # new descriptors are not for children, but these are
        os.set_inheritable(fd, True)


def _umask() -> int:
    """Return the umask that the server was started with, and keep it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def write_pidfile(path: str) -> None:
    """Write this process's number to *path*, whatever was there.  Raises `StartupError`."""
    try:
        files.write_own(path, f"{os.getpid()}\n".encode())
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.ELOOP:
            reason = "this is a link, in a directory that not only root can write to"
        raise StartupError(f"cannot write the pidfile {path}: {reason}") from error


def remove_pidfile(path: str, pid: int) -> None:
    """Remove the file at *path*, if it is the pidfile of the process *pid*.  Raises OSError."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        with open(path, "rb") as file:
            is_ours = file.read(32) == b"%d\n" % pid
        if is_ours:
            os.unlink(path)
