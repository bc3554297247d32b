"""The libvirt plugin: a disk of a virtual machine, read through libvirt.

libvirt reads the disk where the machine runs, perhaps on another host, and sends the data
(virDomainBlockPeek); there is no call for writing.  Each client gets a connection of its own to
libvirt.  If it is lost because libvirtd ended, the next read makes another.
"""

import errno
import logging
import threading
from types import ModuleType
from typing import TYPE_CHECKING

from nbdfork.plugin import BlockSize, ConfigError, Export, Needs, Parameter, Plugin

from ._link.timeout import SILENCE, some_seconds
from ._link.within import Unanswered, within

if TYPE_CHECKING:
    from libvirt import libvirtError, virConnect, virDomain

log = logging.getLogger(__name__)

_MAX_READ = 4 * 1024 * 1024
"""The most that one reply of libvirtd carries, in bytes (REMOTE_DOMAIN_BLOCK_PEEK_BUFFER_MAX)."""


class Libvirt(Plugin):
    """a disk of a virtual machine, read through libvirt"""

    connect = Parameter(str, metavar="URI", help="the libvirt to connect to (default: libvirt's)")
    domain = Parameter(str, required=True, metavar="DOMAIN", help="the name of the machine")
    disk = Parameter(str, required=True, metavar="DISK", help="its disk: a target name or a path")

    timeout = Parameter(
        some_seconds, default=SILENCE, metavar="SECONDS", help="how long a request may take"
    )

    def waits(self) -> bool:
        return True  # threads can share a connection; 8 reads at once are twice as fast

    def get_ready(self) -> None:
        """Read a byte, while the user can still be told what is wrong.

        The connection is closed again, because workers cannot share one.
        """
        libvirt = _library()
        try:
            export = within(self.timeout, lambda: self._open(libvirt))
        except libvirt.libvirtError as error:
            raise ConfigError(f"libvirt: {error}{self._hint(libvirt, error)}") from error
        except Unanswered as error:
            raise ConfigError(f"libvirt: {self._shown()}: {error.strerror}") from error
        export.close()

    def _hint(self, libvirt: ModuleType, error: "libvirtError") -> str:
        match error.get_error_code():
            case libvirt.VIR_ERR_NO_DOMAIN:
                return " (try: virsh list --all)"
            case libvirt.VIR_ERR_INVALID_ARG:
                return f" (try: virsh domblklist {self.domain})"
            case libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
                return " (libvirt can show only disks of raw format)"
        return f" (connect={self.connect})" if self.connect else ""

    def needs(self) -> Needs:
        return Needs(network=True, programs=True)  # libvirt may start ssh, or its daemon

    def open(self, export_name: str, read_only: bool) -> Export:
        libvirt = _library()
        try:
            return within(self.timeout, lambda: self._open(libvirt))
        except libvirt.libvirtError as error:
            raise OSError(_errno(libvirt, error), str(error)) from error
        except Unanswered as error:
            raise OSError(error.errno, f"{self._shown()}: {error.strerror}") from error

    def _shown(self) -> str:
        return self.connect or "the default libvirt"

    def _open(self, libvirt: ModuleType) -> "DiskExport":
        connection = _connect(libvirt, self.connect)
        domain = connection.lookupByName(self.domain)
        export = DiskExport(libvirt, self.connect, domain, self.disk, self.timeout)
        if export.get_size():
            export.domain.blockPeek(self.disk, 0, 1)  # libvirt tells the size whatever the format
        return export


class DiskExport(Export):
    """One client's view of the disk *disk* of *domain*, through a connection of its own to *uri*.

    A connection on which there is no answer for *timeout*, in seconds, is given up.  Several
    threads may call the methods at the same time.
    """

    def __init__(
        self, libvirt: ModuleType, uri: str | None, domain: "virDomain", disk: str, timeout: float
    ) -> None:
        self.domain = domain
        self._timeout = timeout
        self._silent: virDomain | None = None  # one through a connection that was given up
        self._libvirt = libvirt
        self._uri = uri
        self._disk = disk
        # The name may belong to another domain one day, which must not be read then.
        self._uuid = domain.UUIDString()
        self._size: int = domain.blockInfo(disk)[0]
        self._reconnecting = threading.Lock()

    def get_size(self) -> int:
        return self._size

    def can_multi_conn(self) -> bool:
        return True

    def block_size(self) -> BlockSize:
        return BlockSize(preferred=64 * 1024)  # each read is a round trip to libvirtd

    def pread(self, count: int, offset: int) -> bytes:
        if count <= _MAX_READ:
            return self._peek(count, offset)
        end = offset + count
        starts = range(offset, end, _MAX_READ)
        return b"".join(self._peek(min(_MAX_READ, end - start), start) for start in starts)

    def _peek(self, count: int, offset: int) -> bytes:
        """Read up to `_MAX_READ` bytes, through a new connection if the old one is lost."""
        domain = self.domain
        try:
            return within(self._timeout, lambda: self._peek_through(domain, count, offset))
        except self._libvirt.libvirtError as error:
            raise OSError(_errno(self._libvirt, error), str(error)) from error
        except Unanswered as error:
            self._silent = domain
            text = f"{self._uri or 'the default libvirt'}: {error.strerror}"
            raise OSError(error.errno, text) from error

    def _peek_through(self, domain: "virDomain", count: int, offset: int) -> bytes:
        data: bytes
        try:
            if domain is not self._silent:
                data = domain.blockPeek(self._disk, offset, count)
                return data
        except self._libvirt.libvirtError as error:
            if domain.connect().isAlive() > 0:
                raise
            log.warning("libvirt: lost the connection: %s", error)
        data = self._reconnected(domain).blockPeek(self._disk, offset, count)
        return data

    def _reconnected(self, lost: "virDomain") -> "virDomain":
        """Return the domain through a new connection.

        Only the first thread that finds *lost* dead makes one.  The old connection is closed when
        no thread refers to it any more.
        """
        with self._reconnecting:
            if self.domain is lost:
                connection = _connect(self._libvirt, self._uri)
                self.domain = connection.lookupByUUIDString(self._uuid)
            return self.domain

    def close(self) -> None:
        if self.domain is not self._silent:  # that one may still be in use
            self.domain.connect().close()


def _connect(libvirt: ModuleType, uri: str | None) -> "virConnect":
    """Connect for reading and writing, which blockPeek requires.  Raises libvirtError."""
    return libvirt.open(uri)


def _library() -> ModuleType:
    """Return the libvirt module, set to write to our log and not to standard error."""
    try:
        import libvirt
    except ImportError:
        message = 'the libvirt plugin needs libvirt-python: pip install "nbdfork[libvirt]"'
        raise ConfigError(message) from None
    libvirt.registerErrorHandler(_log_error, None)
    module: ModuleType = libvirt
    return module


def _log_error(context: None, error: tuple[object, ...]) -> None:
    """Log an error of libvirt at a low level, because it is raised as well."""
    log.debug("libvirt: %s", error[2])


def _errno(libvirt: ModuleType, error: "libvirtError") -> int:
    match error.get_error_code():
        case libvirt.VIR_ERR_AUTH_FAILED | libvirt.VIR_ERR_AUTH_CANCELLED:
            return errno.EACCES
        case libvirt.VIR_ERR_OPERATION_DENIED | libvirt.VIR_ERR_ACCESS_DENIED:
            return errno.EACCES
    return errno.EIO
