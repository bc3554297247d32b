"""Files that the server writes: whole or not at all, and never where somebody else has pointed to.

A server that is started by root writes its pidfile and its log with root's rights.  In a directory
that others can write to, one of them could have put a link there, to a file that matters.
"""

import errno
import os
import stat
from contextlib import suppress

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def open_own(path: str, flags: int, mode: int = 0o644) -> int:
    """Open *path* as `os.open` does, for a file that is the server's own.

    Raises OSError with ELOOP for a link that somebody else may have put there.
    """
    return os.open(path, flags | _no_follow(path) | os.O_CLOEXEC, mode)


def write_own(path: str, data: bytes) -> None:
    """Let *path* be a file with *data*: readers see what was there, or all of it.

    What is not a file, such as a pipe, is written to.  Raises OSError as `open_own` does.
    """
    if not _no_follow(path):
        path = os.path.realpath(path)
    if not _can_be_replaced(path) or not _replace(path, data):
        _overwrite(path, data)


def _no_follow(path: str) -> int:
    """Return O_NOFOLLOW for a path at which others may have put a link for root to follow."""
    if os.geteuid() != 0:
        return 0
    directory = os.stat(os.path.dirname(path) or ".")
    is_ours = directory.st_uid == 0 and not directory.st_mode & _OTHERS
    return 0 if is_ours else os.O_NOFOLLOW


def _can_be_replaced(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def _replace(path: str, data: bytes) -> bool:
    """Put a new file in the place of *path*; return False if the directory does not allow it."""
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except (PermissionError, FileExistsError):
        return False
    try:
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(new, path)
    except OSError as error:
        with suppress(FileNotFoundError):
            os.unlink(new)
        if error.errno in (errno.EPERM, errno.EACCES):  # the old one is somebody else's
            return False
        raise
    return True


def _overwrite(path: str, data: bytes) -> None:
    fd = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _write_all(fd, data)
    except OSError:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.unlink(path)  # it is empty now
        raise
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
