"""The nbd plugin: an export of another NBD server.

Each client gets a connection of its own to that server, made in its worker; with shared=true, one
process has one connection for all clients.  libnbd speaks the protocol.
"""

import os
import re
import shutil
import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, closing
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from nbdfork.plugin import ConfigError, Export, ExportInfo, Needs, Parameter, Plugin, parse

from .._link.reconnecting import ReconnectingLink
from .._link.timeout import SILENCE, Patience, some_seconds
from .library import library

if TYPE_CHECKING:
    from .listing import Listing

_SERVERS = ("uri", "socket", "hostname", "vsock", "socket_fd", "command")
"""The parameters that say which server: exactly one of them is given."""

_SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock")

_PAUSES = (0.0, 0.0)
"""Seconds to wait before each further attempt at a request whose connection was lost."""


def _nonempty(text: str) -> str:
    if not text:
        raise ValueError("a name is expected")
    return text


def _port(text: str) -> str:
    if not re.fullmatch("[0-9]+|[A-Za-z][A-Za-z0-9-]*", text):
        raise ValueError("expected a port number or the name of a service")
    return text


class Nbd(Plugin):
    """another NBD server's export"""

    uri = Parameter(
        _nonempty, magic=True, metavar="URI", help="the server and export, as an NBD URI"
    )
    socket = Parameter(parse.path, metavar="PATH", help="the server's Unix domain socket")
    hostname = Parameter(_nonempty, metavar="HOST", help="the server's host, by TCP")
    port = Parameter(_port, metavar="PORT", help="its port, for hostname= and vsock= (10809)")
    vsock = Parameter(parse.whole(0, 2**32 - 1), metavar="CID", help="the server's vsock address")
    socket_fd = Parameter(
        parse.whole(0, 2**31 - 1), metavar="FD", help="a connected socket that is inherited"
    )
    command = Parameter(_nonempty, metavar="COMMAND", help="run this server (socket activation)")
    arg = Parameter(str, repeatable=True, metavar="ARG", help="an argument of the command")
    export = Parameter(str, metavar="NAME", help="the name of the server's export (default: none)")
    dynamic_export = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="the client's export name chooses"
    )
    retry = Parameter(
        parse.whole(0, 2**31 - 1), default=0, metavar="N", help="try N more times to connect"
    )
    timeout = Parameter(
        some_seconds, default=SILENCE, metavar="SECONDS", help="how long the server may be silent"
    )
    shared = Parameter(parse.boolean, metavar="BOOL", help="one connection for all clients")
    tls = Parameter(
        parse.choice("off", "on", "require"), metavar="off|on|require", help="whether to use TLS"
    )
    tls_certificates = Parameter(parse.path, metavar="DIR", help="where certificates for TLS are")
    tls_verify = Parameter(parse.boolean, metavar="BOOL", help="check the server's certificate")
    tls_username = Parameter(_nonempty, metavar="NAME", help="the user's name for TLS")
    tls_psk = Parameter(parse.path, metavar="FILENAME", help="the file of pre-shared keys for TLS")

    def dump_plugin(self) -> Mapping[str, str]:
        try:
            handle = library().NBD()
        except ConfigError:
            return {}
        return {
            "libnbd_version": handle.get_version(),
            "libnbd_tls": str(int(handle.supports_tls())),
            "libnbd_uri": str(int(handle.supports_uri())),
            # libnbd has the former since 1.4 and the latter since 1.8.
            "libnbd_vsock": str(int(hasattr(handle, "aio_connect_vsock"))),
            "libnbd_dynamic_list": str(int(hasattr(handle, "opt_list"))),
        }

    def waits(self) -> bool:
        return True

    def has_named_exports(self) -> bool:
        return self.dynamic_export

    def one_process(self) -> bool:
        return self._is_shared()

    def _is_shared(self) -> bool:
        if self.shared is None:
            return self.command is not None or self.socket_fd is not None
        return self.shared

    # -- when the server starts ---------------------------------------------------------

    def config_complete(self) -> None:
        self._check_server()
        if self.dynamic_export and self._is_shared():
            raise ConfigError(
                "nbd: dynamic-export= needs a connection for each client: not shared="
            )
        if self.dynamic_export and self.export is not None:
            raise ConfigError("nbd: give either export= or dynamic-export=true")
        if self.uri is not None and self.export is not None:
            raise ConfigError("nbd: with uri=, the export's name is a part of the URI, not export=")
        if self.tls_certificates is not None and not os.path.isdir(self.tls_certificates):
            raise ConfigError(f"nbd: tls-certificates={self.tls_certificates}: no such directory")
        if self.tls_psk is not None and not os.path.isfile(self.tls_psk):
            raise ConfigError(f"nbd: tls-psk={self.tls_psk}: there is no such file")

    def _check_server(self) -> None:
        given = [way.replace("_", "-") for way in _SERVERS if getattr(self, way) is not None]
        if len(given) != 1:
            names = ", ".join(f"{way.replace('_', '-')}=" for way in _SERVERS)
            raise ConfigError(f"nbd: say which server by one of {names}")
        if self.port is not None and given[0] not in ("hostname", "vsock"):
            raise ConfigError("nbd: port= goes with hostname= or vsock=")
        if self.vsock is not None and not (self.port or "0").isdecimal():
            raise ConfigError(f"nbd: port={self.port}: with vsock=, the port is a number")
        if self.arg and self.command is None:
            raise ConfigError("nbd: arg= goes with command=")
        if given[0] in ("command", "socket-fd") and not self._is_shared():
            raise ConfigError(f"nbd: {given[0]}= is one connection: it needs shared=true")
        if self.command is not None and shutil.which(self.command) is None:
            raise ConfigError(f"nbd: command={self.command}: there is no such program")
        if self.socket_fd is not None and not _is_socket(self.socket_fd):
            raise ConfigError(f"nbd: socket-fd={self.socket_fd}: no socket was inherited as this")

    def get_ready(self) -> None:
        self._nbd = library()
        self._sharing = threading.Lock()
        self._shared_link: ReconnectingLink[Any] | None = None
        if self.socket_fd is not None:
            self._socket = os.dup(self.socket_fd)  # a daemon closes the descriptors it inherited
        if self._tls_mode() and not self._nbd.NBD().supports_tls():
            raise ConfigError("nbd: tls=: this libnbd was built without TLS")
        if self.uri is not None:
            _check_uri(self._nbd, self.uri)

    def needs(self) -> Needs:
        given = {self.tls_certificates, self.tls_psk}
        if self.uri is not None:
            query = dict(parse_qsl(urlsplit(self.uri).query))
            given |= {query.get("tls-certificates"), query.get("tls-psk-file")}
        if self._tls_mode() or (self.uri or "").startswith("nbds"):
            given |= {"/etc/pki/libnbd", os.path.expanduser("~/.pki/libnbd")}  # libnbd's defaults
        read = frozenset(path for path in given if path)
        return Needs(read, network=True, programs=self.command is not None)

    def unload(self) -> None:
        if self.socket_fd is not None:
            os.close(self._socket)

    # -- connecting, in a worker --------------------------------------------------------

    def open(self, export_name: str, read_only: bool) -> Export:
        from .export import NbdExport

        if not self._is_shared():
            link = self._connected(export_name if self.dynamic_export else self._own_name())
        else:
            with self._sharing:
                if self._shared_link is None:
                    self._shared_link = self._connected(self._own_name())
            link = self._shared_link
        shared = self._is_shared()
        return NbdExport(self._nbd, link, shared, read_only, self.server, self.timeout)

    def _own_name(self) -> str | None:
        """Return the name of the one export that is served; None if the URI has it."""
        return None if self.uri is not None else self.export or ""

    def _connected(self, export_name: str | None) -> "ReconnectingLink[Any]":
        from .connecting import with_retries
        from .remote import RemoteExport
        from .same import SameExport

        patience = self._patience()
        make = partial(RemoteExport, self._nbd, self._start_connecting, export_name, patience)
        again = SameExport(partial(with_retries, make, self.retry, patience))
        return ReconnectingLink(again, _PAUSES, self._shown(), patience.pause, patience.timeout)

    def _patience(self) -> Patience:
        return Patience(self.server.wait, self.timeout)

    # -- the exports of the server ------------------------------------------------------

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        if not self.dynamic_export:
            return super().list_exports(read_only)
        with self._listing() as server:
            return server.exports()

    def default_export(self, read_only: bool) -> str:
        if not self.dynamic_export:
            return ""
        with self._listing() as server:
            return server.default_export()

    def _listing(self) -> AbstractContextManager["Listing"]:
        from .connecting import with_retries
        from .listing import Listing

        patience = self._patience()
        make = partial(Listing, self._nbd, self._start_connecting, patience)
        try:
            return closing(with_retries(make, self.retry, patience))
        except OSError as error:
            raise OSError(error.errno, f"{self._shown()}: {error.strerror}") from error

    # -- the ways to connect --------------------------------------------------------------

    def _start_connecting(self, handle: Any) -> None:
        """Start to connect *handle*.  Raises libnbd's error."""
        self._set_tls(handle)
        if self.uri is not None:
            handle.set_uri_allow_local_file(True)  # the URI comes from the user, not a client
            handle.aio_connect_uri(self.uri)
        elif self.socket is not None:
            handle.aio_connect_unix(self.socket)
        elif self.hostname is not None:
            handle.aio_connect_tcp(self.hostname, self.port or "10809")
        elif self.vsock is not None:
            handle.aio_connect_vsock(self.vsock, int(self.port or 10809))
        elif self.command is not None:
            handle.aio_connect_systemd_socket_activation([self.command, *self.arg])
        else:
            handle.aio_connect_socket(os.dup(self._socket))

    def _set_tls(self, handle: Any) -> None:
        if mode := self._tls_mode():
            handle.set_tls(mode)
        if self.tls_certificates is not None:
            handle.set_tls_certificates(self.tls_certificates)
        if self.tls_verify is not None:
            handle.set_tls_verify_peer(self.tls_verify)
        if self.tls_username is not None:
            handle.set_tls_username(self.tls_username)
        if self.tls_psk is not None:
            handle.set_tls_psk_file(self.tls_psk)

    def _tls_mode(self) -> int:
        """Return libnbd's number for tls=, whose default is "on" if another tls-...= is given."""
        settings = (self.tls_certificates, self.tls_verify, self.tls_username, self.tls_psk)
        default = "on" if any(setting is not None for setting in settings) else "off"
        return ("off", "on", "require").index(self.tls or default)

    def _shown(self) -> str:
        """Return the server's name for messages."""
        if self.uri is not None:
            return self.uri
        if self.hostname is not None:
            return f"{self.hostname} port {self.port or 10809}"
        if self.vsock is not None:
            return f"vsock {self.vsock} port {self.port or 10809}"
        return self.socket or self.command or f"socket-fd {self.socket_fd}"


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def _check_uri(nbd: ModuleType, uri: str) -> None:
    """Raise `ConfigError` for a URI that libnbd would refuse when a client connects."""
    if not nbd.NBD().supports_uri():
        raise ConfigError("nbd: uri=: this libnbd was built without URIs: use socket= or hostname=")
    scheme, separator, _ = uri.partition("://")
    if not separator:
        scheme, separator, _ = uri.partition(":")
    if not separator or scheme not in _SCHEMES:
        raise ConfigError(f"nbd: uri={uri}: expected one of {', '.join(_SCHEMES)}, then ://")
