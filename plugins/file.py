"""The file plugin: serve a file, a block device, or the files of a directory."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping

from nbdfork.plugin import ConfigError, Export, ExportInfo, Parameter, Plugin, parse
from nbdfork.plugin.descriptor import DescriptorExport

_ADVICE = {
    "normal": os.POSIX_FADV_NORMAL,
    "random": os.POSIX_FADV_RANDOM,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
}

_BLKROGET = 0x125E  # linux/fs.h

# What opening for writing says of a file that can perhaps still be read.
_READ_ONLY_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY})


class File(Plugin):
    """serve a file or a block device"""

    file = Parameter(parse.path, magic=True, metavar="FILENAME", help="the file to serve")
    dir = Parameter(
        parse.path, metavar="DIRECTORY", help="serve the files in it; the export name chooses"
    )
    fadvise = Parameter(
        parse.choice(*_ADVICE),
        default="normal",
        metavar="normal|random|sequential",
        help="how clients will read, a hint to the kernel",
    )
    resizable = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="let clients change a file's size"
    )
    debug_flags: Mapping[str, str] = {"zero": "log how each trim and zero is carried out"}

    def config_complete(self) -> None:
        """Look now whether there is something to serve, while the user can be told."""
        if (self.file is None) == (self.dir is None):
            raise ConfigError("file: give either file=FILENAME or dir=DIRECTORY")
        path = self.file or self.dir or ""
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise ConfigError(f"file: {path}: {error.strerror}") from error
        if self.dir is not None:
            if not stat.S_ISDIR(mode):
                raise ConfigError(f"file: dir={path}: not a directory")
        elif stat.S_ISDIR(mode):
            raise ConfigError(f"file: {path} is a directory: use dir={path} to serve its files")
        elif not _is_servable(mode):
            raise ConfigError(f"file: {path} is neither a regular file nor a block device")

    def list_exports(self, read_only: bool) -> Iterator[ExportInfo]:
        if self.dir is None:
            yield ExportInfo("")
            return
        with os.scandir(self.dir) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if _is_present(entry):
                    yield ExportInfo(entry.name)

    def open(self, export_name: str, read_only: bool) -> Export:
        fd, writable = _open(self._path_of(export_name), read_only)
        try:
            os.posix_fadvise(fd, 0, 0, _ADVICE[self.fadvise])
            writable = writable and not _is_read_only_device(fd)
            return DescriptorExport(
                fd, writable=writable, resizable=self.resizable, trace=bool(self.debug["zero"])
            )
        except BaseException:
            os.close(fd)
            raise

    def _path_of(self, export_name: str) -> str:
        """Return the path of the file to serve.  It is looked at before it is opened, which some
        devices take as an order, and again for each client: it may have been replaced.
        """
        path, number = self.file or "", errno.EINVAL
        if self.dir is not None:
            if not export_name or "/" in export_name or export_name in (".", ".."):
                raise FileNotFoundError(errno.ENOENT, "not the name of a file in the directory")
            path, number = os.path.join(self.dir, export_name), errno.ENOENT
        if not _is_servable(os.stat(path).st_mode):
            raise OSError(number, "neither a regular file nor a block device", path)
        return path


def _is_servable(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _is_present(entry: os.DirEntry[str]) -> bool:
    try:
        return _is_servable(entry.stat().st_mode)
    except OSError:
        return False  # a dangling symbolic link, or gone since the directory was read


def _open(path: str, read_only: bool) -> tuple[int, bool]:
    """Open *path* for writing if possible; return the descriptor and whether it was."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK  # should it have become a fifo, not to wait for it
    if not read_only:
        try:
            return os.open(path, flags | os.O_RDWR), True
        except OSError as error:
            if error.errno not in _READ_ONLY_ERRORS:
                raise
    return os.open(path, flags | os.O_RDONLY), False


def _is_read_only_device(fd: int) -> bool:
    """Return whether *fd* is a block device that can be opened for writing, but not written."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return False
    return any(fcntl.ioctl(fd, _BLKROGET, bytes(4)))
