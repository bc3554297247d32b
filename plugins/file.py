"""The file plugin: serve a file, a block device, or the files of a directory."""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from itertools import islice

from nbdfork.plugin import (
    ConfigError,
    DescriptorExport,
    Export,
    ExportInfo,
    LostWrites,
    Needs,
    Parameter,
    Plugin,
    parse,
)

from ._parts.files import check_disk, check_servable, demand_servable, open_writable
from ._parts.folder import BENEATH, FOLLOW, LINKS, Folder
from ._parts.sparing import SparingExport

log = logging.getLogger(__name__)

_LOOKED_AT = 1000
"""So many files of a directory are looked at when the server starts, so that it starts soon."""

_ADVICE = {
    "normal": os.POSIX_FADV_NORMAL,
    "random": os.POSIX_FADV_RANDOM,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
}


def _descriptor(text: str) -> int:
    if not text.isdecimal() or int(text) < 3:
        raise ValueError(
            "expected the number of a descriptor from 3 on: the others are the server's"
        )
    return int(text)


class File(Plugin):
    """serve a file or a block device"""

    file = Parameter(parse.path, magic=True, metavar="FILENAME", help="the file to serve")
    dir = Parameter(
        parse.path, metavar="DIRECTORY", help="serve the files in it; the export name chooses"
    )
    fd = Parameter(
        _descriptor, metavar="NUMBER", help="serve the file that is open as this descriptor"
    )
    dirfd = Parameter(
        _descriptor, metavar="NUMBER", help="serve the files of the directory that is open as this"
    )
    dir_links = Parameter(
        parse.choice(*LINKS),
        metavar="|".join(LINKS),
        help="symbolic links in it that are followed: all, those that stay in it, or none"
        " (beneath if started as root, else follow)",
    )
    fadvise = Parameter(
        parse.choice(*_ADVICE),
        default="normal",
        metavar="normal|random|sequential",
        help="how clients will read, a hint to the kernel",
    )
    reduce_memory_pressure = Parameter(
        parse.boolean,
        default=False,
        metavar="BOOL",
        help="let what is read and written not stay in the memory of the system",
    )
    cache_mode = Parameter(
        parse.choice("default", "none"),
        key="cache",
        metavar="default|none",
        help="none is an old name for reduce-memory-pressure=true",
    )
    resizable = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="let clients change a file's size"
    )
    debug_flags: Mapping[str, str] = {"zero": "log how each trim and zero is carried out"}

    def config_complete(self) -> None:
        """Check that there is something to serve, while the user can still be told."""
        ways = (self.file, self.dir, self.fd, self.dirfd)
        if sum(way is not None for way in ways) != 1:
            raise ConfigError(
                "file: give one of file=FILENAME, dir=DIRECTORY, fd=NUMBER and dirfd=NUMBER"
            )
        self._spares = self.reduce_memory_pressure or self.cache_mode == "none"
        self._take_descriptors()
        if self.dir is not None:
            _check_directory(self.dir)
            # Now, for a server that is started as root may be somebody else later.
            usual = BENEATH if os.geteuid() == 0 else FOLLOW
            self._folder = Folder(self.dir, self.dir_links or usual)
        elif self.dir_links is not None:
            raise ConfigError("file: dir-links= is about the links in a directory: give dir=")
        elif self.fd is not None:
            check_servable("file", f"/proc/self/fd/{self._fd}")
        elif self.file is not None:
            if os.path.isdir(self.file):
                raise ConfigError(f"file: {self.file} is a directory: use dir= to serve its files")
            check_servable("file", self.file)

    def _take_descriptors(self) -> None:
        """Keep descriptors that were inherited: those are closed in the background."""
        try:
            if self.fd is not None:
                self._fd = os.dup(self.fd)
            if self.dirfd is not None:
                self.dir = f"/proc/self/fd/{os.dup(self.dirfd)}"
        except OSError as error:
            key, number = ("fd", self.fd) if self.dirfd is None else ("dirfd", self.dirfd)
            raise ConfigError(f"file: {key}={number}: nothing is open as this number") from error

    def has_named_exports(self) -> bool:
        return self.dir is not None

    def needs(self) -> Needs:
        if self.fd is not None:
            return Needs()
        if self.dir is None:
            return Needs(write=frozenset({self.file or ""}))
        return Needs(write=frozenset({self.dir, *self._folder.outside()}))

    def list_exports(self, read_only: bool) -> Iterator[ExportInfo]:
        if self.dir is None:
            yield ExportInfo("")
            return
        yield from map(ExportInfo, self._folder.names())

    def get_ready(self) -> None:
        self._lost = LostWrites()

    def check_access(self, read_only: bool) -> None:
        if self.file is not None:
            check_disk("file", self.file, read_only)
        if self.dir is None:
            return
        for name in islice(self._folder.names(), _LOOKED_AT):
            path = os.path.join(self.dir or "", name)
            try:
                check_disk("file", name, read_only, errno.ENOENT, self._folder.open, path)
            except ConfigError as error:  # clients can have the others
                log.warning("%s", error)

    def open(self, export_name: str, read_only: bool) -> Export:
        if self.fd is not None:
            fd = os.dup(self._fd)
            mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
            writable = mode == os.O_RDWR and not read_only
        elif self.dir is None:
            path = self.file or ""
            demand_servable(path)
            fd, writable = open_writable(path, read_only)
        else:
            found = (errno.ENOENT, self._folder.open)
            demand_servable(export_name, *found)
            fd, writable = open_writable(export_name, read_only, *found)
        try:
            os.posix_fadvise(fd, 0, 0, _ADVICE[self.fadvise])
            kind = SparingExport if self._spares else DescriptorExport
            return kind(
                fd,
                writable=writable,
                resizable=self.resizable,
                trace=bool(self.debug["zero"]),
                lost=self._lost,
            )
        except BaseException:
            os.close(fd)
            raise


def _check_directory(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"file: dir={path}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"file: dir={path} is not a directory")
