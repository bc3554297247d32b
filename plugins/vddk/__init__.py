"""The vddk plugin: VMware's disks, through VMware's library (VDDK, "VixDiskLib").

The library is proprietary, and not part of nbdfork.  It is loaded when the server starts, and each
worker initialises it.  The parameters are those of nbdkit-vddk-plugin(1).
"""

import errno
import logging
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from nbdfork.plugin import (
    ConfigError,
    Export,
    Parameter,
    Plugin,
    Secret,
    ThreadModel,
    parse,
    read_password,
)

from . import library
from .export import Access, DiskExport, Server
from .structs import OPEN_COMPRESSION, OPEN_READ_ONLY, OPEN_SINGLE_LINK, OPEN_UNBUFFERED

log = logging.getLogger(__name__)

T = TypeVar("T")

_PORT = parse.whole(1, 65535)


def _no_create(text: str) -> bool:
    if parse.boolean(text):
        raise ValueError("disks are not created; make one with vmkfstools or vixDiskLibSample")
    return False


class _KeyConfig(Parameter[T]):
    """A parameter whose key is `config`: an attribute of that name is a method of plugins."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = "config"


class Vddk(Plugin):
    """disks of VMware's machines, through VMware's library"""

    file = Parameter(str, magic=True, metavar="FILENAME", help="the VMDK file, as VMware names it")
    export = Parameter(
        str, metavar="PATTERN", help="let clients choose a file whose name is like this"
    )
    libdir = Parameter(
        parse.path,
        default=library.DEFAULT_DIRECTORY,
        metavar="DIRECTORY",
        help="where VDDK is: the directory with lib64 in it",
    )
    config_file = _KeyConfig(parse.path, metavar="FILE", help="a configuration file of the library")
    hostname = Parameter(str, key="server", metavar="HOSTNAME", help="the vCenter or ESXi server")
    user = Parameter(str, metavar="USER", help="the name to log in with")
    password = Secret(str, metavar="PASSWORD|-|+FILE|-FD", help="its password, or where to read it")
    vm = Parameter(str, metavar="moref=ID", help="the virtual machine that the disk belongs to")
    thumbprint = Parameter(str, metavar="THUMB", help="of the server's certificate")
    cookie = Secret(str, metavar="COOKIE", help="of a session on the server that exists")
    port = Parameter(_PORT, metavar="PORT", help="of the server")
    nfchostport = Parameter(_PORT, metavar="PORT", help="of the connection to the ESXi host")
    snapshot = Parameter(str, metavar="MOREF", help="the snapshot whose disk is served")
    transports = Parameter(str, metavar="MODE:MODE:...", help="the transport modes to try")
    compression = Parameter(
        parse.choice(*OPEN_COMPRESSION),
        default="none",
        metavar="none|zlib|fastlz|skipz",
        help="how data is compressed on the network",
    )
    single_link = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="open this link of a chain of disks only"
    )
    unbuffered = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="let nothing be cached"
    )
    create = Parameter(_no_create, default=False, metavar="false", help="disks are not created")
    debug_flags: Mapping[str, str] = {"diskinfo": "log what the library says of each disk"}

    _library: library.Library

    # -- starting -----------------------------------------------------------------------

    def dump_plugin(self) -> Mapping[str, str]:
        facts = {"vddk_default_libdir": library.DEFAULT_DIRECTORY}
        try:
            found = library.load(self.libdir)
        except ConfigError:
            return facts
        return facts | {"vddk_library_version": str(found.version), "vddk_dll": found.path}

    def config_complete(self) -> None:
        if not self.file and not self.export:
            raise ConfigError("vddk: give file=FILENAME, or export=PATTERN")
        remote = {
            "server": self.hostname,
            "user": self.user,
            "password": self.password,
            "vm": self.vm,
        }
        others = {
            "thumbprint": self.thumbprint,
            "cookie": self.cookie,
            "port": self.port,
            "nfchostport": self.nfchostport,
        }
        given = [key for key, value in (remote | others).items() if value is not None]
        missing = [key for key, value in remote.items() if value is None]
        if given and missing:
            raise ConfigError(
                f"vddk: {given[0]}= is for a disk on a server, which needs {missing[0]}= as well"
            )
        if self.password is not None:
            self.password = read_password("vddk: password", self.password)
        if not given and self.file:
            self.file = os.path.abspath(self.file)
        self._access = self._choose_access(bool(given))

    def _choose_access(self, remote: bool) -> Access:
        flags = OPEN_COMPRESSION[self.compression]
        flags |= OPEN_SINGLE_LINK if self.single_link else 0
        flags |= OPEN_UNBUFFERED if self.unbuffered else 0
        server = None
        if remote:
            server = Server(
                _bytes(self.hostname) or b"",
                _bytes(self.user) or b"",
                _bytes(self.password) or b"",
                _bytes(self.vm) or b"",
                _bytes(self.cookie),
                _bytes(self.thumbprint),
                self.port or 0,
                self.nfchostport or 0,
            )
        return Access(server, _bytes(self.snapshot), _bytes(self.transports), flags)

    def thread_model(self) -> ThreadModel:
        return ThreadModel.SERIALIZE_REQUESTS

    def get_ready(self) -> None:
        self._library = library.load(self.libdir)

    # -- serving ------------------------------------------------------------------------

    def after_fork(self) -> None:
        self._library.initialise(self.libdir, self.config_file)

    def open(self, export_name: str, read_only: bool) -> Export:
        path = os.fsencode(self._path_of(export_name))
        flags = self._access.flags | (OPEN_READ_ONLY if read_only else 0)
        trace = bool(self.debug["diskinfo"])
        try:
            return DiskExport(self._library, self._access, path, read_only, flags, trace)
        except FileNotFoundError as error:
            log.error("%s", error)  # the client is only told that there is no such export
            raise

    def _path_of(self, export_name: str) -> str:
        if self.file and not (self.export and export_name):
            return self.file
        if not fnmatchcase(export_name, self.export or "") or ".." in export_name.split("/"):
            raise FileNotFoundError(errno.ENOENT, f"{export_name!r} is not like {self.export}")
        return export_name

    def cleanup(self) -> None:
        self._library.Exit()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
