"""Files and block devices as disks: which ones can be served, and how they are opened."""

import errno
import fcntl
import logging
import os
import pwd
import stat
from collections.abc import Callable
from typing import TypeAlias

from nbdfork.plugin import ConfigError, DescriptorExport, LostWrites

log = logging.getLogger(__name__)

_BLKROGET = 0x125E  # linux/fs.h

_READ_ONLY_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY})
"""Errors of opening for writing after which opening for reading may still succeed."""

Opener: TypeAlias = Callable[[str, int], int]
"""Opens a path with flags, as `os.open` does."""


def open_plain(path: str, flags: int) -> int:
    """Open *path* wherever it leads.  Raises OSError."""
    return os.open(path, flags)


_NOT_SERVABLE = "is neither a regular file nor a block device"


def is_servable(mode: int) -> bool:
    """Return whether a file of this mode (stat.st_mode) can be a disk."""
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def check_servable(plugin: str, path: str) -> None:
    """Raise `ConfigError`, in the name of *plugin*, unless *path* can be served."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{plugin}: {path}: {error.strerror}") from error
    if not is_servable(mode):
        raise ConfigError(f"{plugin}: {path} {_NOT_SERVABLE}")


def demand_servable(path: str, number: int = errno.EINVAL, opener: Opener = open_plain) -> None:
    """Raise OSError, with the errno *number*, unless *path*, opened by *opener*, can be served.

    It is looked at before it is opened to be read, which some devices take as an order.  What is
    opened then is looked at again, because it may have been replaced in between.
    """
    fd = opener(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _check_descriptor(fd, path, number)
    finally:
        os.close(fd)


def _check_descriptor(fd: int, path: str, number: int) -> None:
    if not is_servable(os.fstat(fd).st_mode):
        raise OSError(number, _NOT_SERVABLE, path)


def open_writable(
    path: str, read_only: bool, number: int = errno.EINVAL, opener: Opener = open_plain
) -> tuple[int, bool]:
    """Open *path* by *opener*, for writing if possible unless *read_only*.

    Return the descriptor, and whether it can be written.  Raises OSError, with the errno *number*
    if what is there cannot be served.
    """
    if not read_only:
        try:
            fd = _open(path, os.O_RDWR, number, opener)
        except OSError as error:
            if error.errno not in _READ_ONLY_ERRORS:
                raise
        else:
            return fd, not _is_read_only_device(fd)
    return _open(path, os.O_RDONLY, number, opener), False


def check_disk(
    plugin: str,
    path: str,
    read_only: bool,
    number: int = errno.EINVAL,
    opener: Opener = open_plain,
    shown: str | None = None,
) -> None:
    """Raise `ConfigError`, in the name of *plugin*, unless this user can open *path*.

    Warn if it can only be read, and why, though it is not *read_only*.  *shown* is what messages
    call it.
    """
    shown = shown or path
    try:
        fd, writable = open_writable(path, read_only, number, opener)
    except OSError as error:
        raise ConfigError(f"{plugin}: {shown}: {error.strerror}{_for_whom()}") from error
    os.close(fd)
    if not writable and not read_only:
        reason = _why_not_written(path, opener)
        log.warning("%s: %s is served read-only: %s%s", plugin, shown, reason, _for_whom())


def check_part(plugin: str, path: str, read_only: bool) -> None:
    """Raise `ConfigError`, in the name of *plugin*, unless *path* can be a part of its disk."""
    try:
        open_part(path, read_only).close()
    except OSError as error:
        fault = f"{plugin}: {path}: {error.strerror}{_for_whom()}"
        if not read_only and error.errno in _READ_ONLY_ERRORS:
            fault += "; -r serves the disk read-only"
        raise ConfigError(fault) from error


def _why_not_written(path: str, opener: Opener) -> str:
    try:
        os.close(opener(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        return error.strerror or str(error)
    return "the device is read-only"


def _for_whom() -> str:
    """Return who this is, of whom the user may not think."""
    uid = os.geteuid()
    try:
        return f" (for {pwd.getpwuid(uid).pw_name}, as whom clients are served)"
    except KeyError:
        return f" (for user {uid}, as whom clients are served)"


def open_disk(path: str, read_only: bool, lost: LostWrites) -> DescriptorExport:
    """Open *path* as a disk, which can be written if that is possible unless *read_only*.

    Raises OSError.
    """
    demand_servable(path)
    fd, writable = open_writable(path, read_only)
    try:
        return DescriptorExport(fd, writable=writable, lost=lost)
    except BaseException:
        os.close(fd)
        raise


def open_part(path: str, read_only: bool, lost: LostWrites | None = None) -> DescriptorExport:
    """Open *path* as a part of a disk, all of whose parts are to be writable unless *read_only*.

    Raises OSError.
    """
    fd = _open(path, os.O_RDONLY if read_only else os.O_RDWR)
    try:
        writable = not read_only and not _is_read_only_device(fd)
        return DescriptorExport(fd, writable=writable, lost=lost)
    except BaseException:
        os.close(fd)
        raise


def _open(path: str, mode: int, number: int = errno.EINVAL, opener: Opener = open_plain) -> int:
    # O_NONBLOCK, so that it does not wait for a writer if the file has been replaced by a fifo.
    fd = opener(path, mode | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_descriptor(fd, path, number)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_read_only_device(fd: int) -> bool:
    """Return whether *fd* is a block device that can be opened for writing but not written."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return False
    return any(fcntl.ioctl(fd, _BLKROGET, bytes(4)))
