"""Listening sockets: TCP, Unix domain, and those a service manager hands over.

Binding comes first in the server's life, while it may still be root and the user can still be
told.  All listening sockets are non-blocking: several workers wait for the same one, and who
comes second must go on waiting.
"""

import errno
import logging
import os
import select
import socket
import struct
from collections.abc import Iterable, MutableMapping
from typing import Any, TypeAlias

from nbdfork.server.errors import StartupError

log = logging.getLogger(__name__)

ACTIVATION_FD = 3
"""The first descriptor that a service manager passes (sd_listen_fds(3))."""

_Address: TypeAlias = tuple[Any, ...]
"""An address as getaddrinfo(3) gives it; host and port come first in all families."""

_SAME_PORT_ATTEMPTS = 20
_WILDCARDS = ("0.0.0.0", "::")


class Listeners:
    """The sockets that clients connect to.

    *host* with *port*, or *unix_path*, tell clients on this machine where.
    *private_directory* exists only for the socket in it and goes with the server.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        host: str = "localhost",
        port: int | None = None,
        unix_path: str | None = None,
    ) -> None:
        self.sockets = sockets
        self.host = host
        self.port = port
        self.unix_path = unix_path
        self.private_directory: str | None = None
        self._names = [listener.getsockname() for listener in sockets]

    def renew(self) -> None:
        """Listen again where a socket, which all workers share, was shut down by one of them."""
        for index, listener in enumerate(self.sockets):
            if not is_shut_down(listener):
                continue
            name = self._names[index]
            log.error("the socket for %s does not listen any more: making it anew", _address(name))
            try:
                self.sockets[index] = _listen_again(listener, name)
            except OSError as error:
                log.critical("cannot listen on %s again: %s", _address(name), error)

    def close(self) -> None:
        """Stop listening."""
        for listener in self.sockets:
            listener.close()

    def remove_private(self) -> None:
        """Remove a private socket with its directory."""
        if self.private_directory is not None:
            import shutil  # as below: most servers have no need of it

            shutil.rmtree(self.private_directory, ignore_errors=True)

    def give_private_to(self, uid: int, gid: int) -> None:
        """Let the user that the server, now root, is about to become remove a private socket."""
        if os.geteuid() != 0:
            return
        if self.private_directory is not None and self.unix_path is not None:
            os.chown(self.unix_path, uid, gid)
            os.chown(self.private_directory, uid, gid)

    def describe(self) -> str:
        """Return where the server listens, for people."""
        return ", ".join(_address(listener.getsockname()) for listener in self.sockets)


# -- binding --------------------------------------------------------------------------------


def listen_tcp(address: str | None, port: str, family: int) -> Listeners:
    """Listen on TCP *port* (number or service name; "0" is any free one).

    *address* None is all interfaces.  *family* is AF_UNSPEC, AF_INET or AF_INET6.  If one
    family is not available on this machine the other is enough.  Raises `StartupError`.
    """
    try:
        found = socket.getaddrinfo(
            address, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        where = f"{address or 'all interfaces'}, port {port}"
        raise StartupError(f"cannot listen on {where}: {error.strerror}") from None
    addresses = list(dict.fromkeys((info[0], info[4]) for info in found))
    for _ in range(_SAME_PORT_ATTEMPTS):
        try:
            sockets = _bind_all(addresses)
        except _PortTaken:
            continue
        host, listening_port = sockets[0].getsockname()[:2]
        if address is None or host in _WILDCARDS:
            host = "localhost"
        return Listeners(sockets, host, listening_port)
    raise StartupError("found no port that is free for both IPv4 and IPv6")


class _PortTaken(Exception):
    """The free port found for one family is taken in the other."""


def _bind_all(
    addresses: Iterable[tuple[int, _Address]],
) -> list[socket.socket]:
    bound: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in addresses:
        any_port = address[1] == 0
        if any_port and bound:
            address = (address[0], bound[0].getsockname()[1], *address[2:])
        try:
            bound.append(_bind_tcp(family, address))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                _close_all(bound)
                if any_port and bound and error.errno == errno.EADDRINUSE:
                    raise _PortTaken from error
                raise StartupError(
                    f"cannot listen on {_address(address)}: {error.strerror}"
                ) from error
            failure = error
    if not bound:
        raise StartupError(f"cannot listen: {failure}")
    return bound


def _bind_tcp(family: int, address: _Address) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        return _listen(listener)
    except BaseException:
        listener.close()
        raise


def listen_unix(path: str) -> Listeners:
    """Listen on a Unix domain socket at *path*, which must not exist.  Raises `StartupError`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        return Listeners([_listen(listener)], unix_path=path)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason += " (a socket file of an earlier server must be removed)"
        raise StartupError(f"cannot listen on {path}: {reason}") from error


def listen_private() -> Listeners:
    """Listen on a Unix domain socket that only this user can find.  Raises `StartupError`."""
    import tempfile  # and all that it imports

    try:
        directory = tempfile.mkdtemp(prefix="nbdfork")
    except OSError as error:
        raise StartupError(f"cannot make a private directory: {error}") from error
    try:
        listeners = listen_unix(os.path.join(directory, "socket"))
    except StartupError:
        os.rmdir(directory)
        raise
    listeners.private_directory = directory
    return listeners


def is_activated(environment: MutableMapping[str, str]) -> bool:
    """Return whether a service manager passed sockets to this very process."""
    return environment.get("LISTEN_PID") == str(os.getpid()) and "LISTEN_FDS" in environment


def listen_activated(environment: MutableMapping[str, str]) -> Listeners:
    """Take over the sockets that were passed, and hide them from our children's environment.

    Raises `StartupError`.  Protocol: sd_listen_fds(3).
    """
    text = environment.pop("LISTEN_FDS")
    environment.pop("LISTEN_PID")
    environment.pop("LISTEN_FDNAMES", None)
    if not text.isdecimal() or int(text) < 1:
        raise StartupError(f"LISTEN_FDS={text}: not a number of sockets")
    sockets = [_adopt(ACTIVATION_FD + index) for index in range(int(text))]
    listeners = Listeners(sockets)
    for listener in sockets:
        name = listener.getsockname()
        if listener.family == socket.AF_UNIX:
            listeners.unix_path = listeners.unix_path or os.fsdecode(name)
        else:
            listeners.port = listeners.port or name[1]
    return listeners


def _adopt(fd: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise StartupError(f"the descriptor {fd} passed by LISTEN_FDS is not listening")
    except OSError as error:
        raise StartupError(f"the descriptor {fd} passed by LISTEN_FDS: {error}") from error
    os.set_inheritable(fd, False)
    listener.setblocking(False)
    return listener


def is_shut_down(listener: socket.socket) -> bool:
    """Return whether somebody has shut down a listening socket; see shutdown(2)."""
    looking = select.poll()
    looking.register(listener, select.POLLHUP | select.POLLRDHUP)
    return bool(looking.poll(0))


def _listen_again(old: socket.socket, name: Any) -> socket.socket:
    """Return a socket that listens in the place of *old*, which was shut down."""
    family = old.family
    old.close()  # or its address would be taken
    if family != socket.AF_UNIX:
        return _bind_tcp(family, name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.unlink(name)
        listener.bind(name)
        return _listen(listener)
    except BaseException:
        listener.close()
        raise


def _listen(listener: socket.socket) -> socket.socket:
    listener.listen(socket.SOMAXCONN)
    listener.setblocking(False)
    return listener


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()


# -- accepted connections -------------------------------------------------------------------


def prepare_client(client: socket.socket, keepalive: bool) -> str:
    """Set the options of an accepted connection and return its peer, for people."""
    if client.family == socket.AF_UNIX:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("3i", credentials)
        return f"unix pid {pid} uid {uid}"
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return _address(client.getpeername())


def _address(name: object) -> str:
    if not isinstance(name, tuple):
        return os.fsdecode(name) if isinstance(name, bytes) else str(name)
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
