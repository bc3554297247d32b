"""The files of a folder, by their names: what links in it may lead to is decided here.

The kernel resolves a name and checks it in one step (openat2(2)), so nobody who can change the
folder can exchange what is opened for something else after it has been looked at.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator

from .files import is_servable

FOLLOW, BENEATH, REFUSE = "follow", "beneath", "refuse"
LINKS = (FOLLOW, BENEATH, REFUSE)
"""What is done with symbolic links: follow all, follow those that stay in the folder, or none."""

_OPENAT2 = 437  # on every architecture that had it from its beginning
_OPEN_HOW = struct.Struct("=3Q")  # flags, mode, resolve
_RESOLVE = {BENEATH: 0x0A, REFUSE: 0x04}  # linux/openat2.h: BENEATH and NO_MAGICLINKS; NO_SYMLINKS

_UNKNOWN = frozenset({errno.ENOSYS, errno.EPERM})
"""What openat2(2) says where there is none, before Linux 5.6 or behind an old seccomp filter."""

_LEADS_OUT = frozenset({errno.ELOOP, errno.EXDEV})


class Folder:
    """A folder whose files are opened with *links* treated as one of `LINKS` says."""

    def __init__(self, path: str, links: str) -> None:
        self._path = path
        self._links = links

    def open(self, name: str, flags: int) -> int:
        """Open the file *name*, with *flags* as for `os.open`.

        Raises FileNotFoundError for what is not the name of a file in the folder, and for a link
        that may not be followed; other OSErrors as `os.open`.
        """
        if not name or "/" in name or name in (".", ".."):
            raise FileNotFoundError(errno.ENOENT, "not the name of a file in the directory")
        path = os.path.join(self._path, name)
        try:
            if self._links == FOLLOW:
                return os.open(path, flags)
            return self._open_within(name, flags)
        except OSError as error:
            if error.errno not in _LEADS_OUT:
                raise OSError(error.errno, error.strerror, path) from error
            reason = f"dir-links={self._links} forbids to follow this link, or it has no end"
            raise FileNotFoundError(errno.ENOENT, reason, path) from error

    def _open_within(self, name: str, flags: int) -> int:
        directory = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _open_within(directory, name, flags, _RESOLVE[self._links])
        finally:
            os.close(directory)

    def names(self) -> Iterator[str]:
        """Yield the names of the files that can be served, in order.  Raises OSError."""
        for name in sorted(os.listdir(self._path)):
            if self._is_servable(name):
                yield name

    def outside(self) -> Iterator[str]:
        """Yield what links that are there now, and are followed, lead to elsewhere."""
        if self._links != FOLLOW:
            return
        with os.scandir(self._path) as entries:
            for entry in entries:
                if entry.is_symlink() and self._is_servable(entry.name):
                    yield os.path.realpath(entry.path)

    def _is_servable(self, name: str) -> bool:
        try:
            fd = self.open(name, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False  # a link to nowhere or out, or removed since the directory was read
        try:
            return is_servable(os.fstat(fd).st_mode)
        finally:
            os.close(fd)


def _open_within(directory: int, name: str, flags: int, resolve: int) -> int:
    try:
        return _openat2(directory, name, flags, resolve)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)  # then no link is followed
    if stat.S_ISLNK(os.fstat(fd).st_mode):  # O_PATH opens the link itself
        os.close(fd)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return fd


def _openat2(directory: int, name: str, flags: int, resolve: int) -> int:
    how = _OPEN_HOW.pack(flags, 0, resolve)
    fd = _syscall(_OPENAT2, directory, os.fsencode(name), how, len(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return fd


def _find_syscall() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.argtypes = [
        ctypes.c_long,
        ctypes.c_long,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    ]
    function.restype = ctypes.c_long
    return function


_syscall = _find_syscall()
