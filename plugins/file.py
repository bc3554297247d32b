"""The file plugin: serve a file, a block device, or the files of a directory."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping

from nbdfork.plugin import (
    ConfigError,
    DescriptorExport,
    Export,
    ExportInfo,
    Parameter,
    Plugin,
    parse,
)

from ._parts.files import check_servable, demand_servable, is_servable, open_writable

_ADVICE = {
    "normal": os.POSIX_FADV_NORMAL,
    "random": os.POSIX_FADV_RANDOM,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
}


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
        """Check that there is something to serve, while the user can still be told."""
        if (self.file is None) == (self.dir is None):
            raise ConfigError("file: give either file=FILENAME or dir=DIRECTORY")
        if self.dir is not None:
            _check_directory(self.dir)
        elif self.file is not None:
            if os.path.isdir(self.file):
                raise ConfigError(f"file: {self.file} is a directory: use dir= to serve its files")
            check_servable("file", self.file)

    def list_exports(self, read_only: bool) -> Iterator[ExportInfo]:
        if self.dir is None:
            yield ExportInfo("")
            return
        with os.scandir(self.dir) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if _is_present(entry):
                    yield ExportInfo(entry.name)

    def open(self, export_name: str, read_only: bool) -> Export:
        fd, writable = open_writable(self._path_of(export_name), read_only)
        try:
            os.posix_fadvise(fd, 0, 0, _ADVICE[self.fadvise])
            return DescriptorExport(
                fd, writable=writable, resizable=self.resizable, trace=bool(self.debug["zero"])
            )
        except BaseException:
            os.close(fd)
            raise

    def _path_of(self, export_name: str) -> str:
        """Return the path of the file to serve.  Raises OSError."""
        if self.dir is None:
            path = self.file or ""
            demand_servable(path)
            return path
        if not export_name or "/" in export_name or export_name in (".", ".."):
            raise FileNotFoundError(errno.ENOENT, "not the name of a file in the directory")
        path = os.path.join(self.dir, export_name)
        demand_servable(path, errno.ENOENT)
        return path


def _check_directory(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"file: dir={path}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"file: dir={path} is not a directory")


def _is_present(entry: os.DirEntry[str]) -> bool:
    try:
        return is_servable(entry.stat().st_mode)
    except OSError:
        return False  # a dangling symbolic link, or removed since the directory was read
