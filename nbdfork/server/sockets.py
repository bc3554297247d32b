"""Listening sockets: TCP, Unix domain, and those a service manager hands over.

They are bound first of all, while the server may be root and the user can still be told.  They do
not block: several workers wait for the same one, and who comes second must go on waiting.
"""

import errno
import logging
import os
import select
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from nbdfork.server import peers
from nbdfork.server.errors import StartupError

log = logging.getLogger(__name__)

ACTIVATION_FD = 3
"""The first descriptor that a service manager passes (sd_listen_fds(3))."""

LONGEST_UNIX_PATH = 107
"""In bytes: unix(7), sun_path, without the null byte at its end."""

_Address: TypeAlias = tuple[Any, ...]
"""An address as getaddrinfo(3) gives it; host and port come first in all families."""

_SAME_PORT_ATTEMPTS = 20


class Listeners:
    """The sockets that clients connect to.

    *made*: the path of the socket file that was made for them.  *private_directory* exists only
    for that file, and goes with the server.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        made: str | None = None,
        private_directory: str | None = None,
    ) -> None:
        self.sockets = sockets
        self._made = made
        self._identity = None if made is None else _identity(made)
        self._private_directory = private_directory
        self._mode = None if made is None else stat.S_IMODE(os.lstat(made).st_mode)
        self._names = [listener.getsockname() for listener in sockets]

    def hand_over(self) -> dict[str, Any]:
        """Return what another program in this process needs to have the same."""
        fds = [one.fileno() for one in self.sockets]
        return {"sockets": fds, "made": self._made, "private": self._private_directory}

    @classmethod
    def take_over(cls, message: Mapping[str, Any]) -> "Listeners":
        """Return what another program has handed over; the descriptors are copied."""
        copies = [socket.socket(fileno=os.dup(fd)) for fd in message["sockets"]]
        made = message["made"]
        return cls(copies, made if os.path.exists(made or "") else None, message["private"])

    def renew(self) -> None:
        """Listen again where a socket, which all workers share, was shut down by one of them."""
        for index, listener in enumerate(self.sockets):
            if not is_shut_down(listener):
                continue
            name = self._names[index]
            shown = peers.show(listener.family, name)
            log.error("the socket for %s does not listen any more: making it anew", shown)
            try:
                self.sockets[index] = _listen_again(listener, name, self._mode)
            except OSError as error:
                log.critical("cannot listen on %s again: %s", shown, error)

    def has_waiting(self) -> bool:
        """Return whether a client has come that nobody has accepted yet."""
        looking = select.poll()
        for listener in self.sockets:
            looking.register(listener, select.POLLIN)
        return bool(looking.poll(0))

    def close(self) -> None:
        """Stop listening."""
        _close_all(self.sockets)

    def remove(self) -> None:
        """Remove the file that was made, private or not: the server could not be started."""
        if self._made is None:
            return
        try:
            if _identity(self._made) == self._identity:  # it may be another server's by now
                os.unlink(self._made)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s is left behind: %s", self._made, error.strerror)
        self.remove_private()

    def remove_private(self) -> None:
        """Remove a private socket with its directory."""
        if self._private_directory is not None:
            import shutil  # as below: most servers have no need of it

            shutil.rmtree(self._private_directory, ignore_errors=True)

    def give_private_to(self, uid: int, gid: int) -> None:
        """Let the user that the server, now root, is about to become remove a private socket."""
        if os.geteuid() != 0 or self._private_directory is None or self._made is None:
            return
        os.chown(self._made, uid, gid)
        os.chown(self._private_directory, uid, gid)

    def describe(self) -> str:
        """Return where the server listens, for people."""
        return ", ".join(peers.show(one.family, one.getsockname()) for one in self.sockets)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


# -- binding --------------------------------------------------------------------------------


_VMADDR_PORT_ANY = 2**32 - 1
_MOST_OF_TCP = 65535


def listen_tcp(address: str | None, port: str, family: int) -> Listeners:
    """Listen on TCP *port* (number or service name; "0" is any free one).

    *address* None is all interfaces.  *family* is AF_UNSPEC, AF_INET or AF_INET6.  If one
    family is not available on this machine the other is enough.  Raises `StartupError`.
    """
    if port.isdecimal() and int(port) > _MOST_OF_TCP:
        raise StartupError(f"-p {port}: a TCP port is at most {_MOST_OF_TCP}")
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
            return Listeners(_bind_all(addresses))
        except _PortTaken:
            continue
    raise StartupError("found no port that is free for both IPv4 and IPv6")


class _PortTaken(Exception):
    """The free port found for one family is taken in the other."""


def _bind_all(addresses: Iterable[tuple[int, _Address]]) -> list[socket.socket]:
    bound: list[socket.socket] = []
    failures = []
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
                    f"cannot listen on {peers.show(family, address)}: {error.strerror}"
                ) from error
            failures.append(f"{peers.show(family, address)}: {error.strerror}")
    if not bound:
        raise StartupError(f"cannot listen on {'; on '.join(failures)}")
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


def listen_vsock(port: str) -> Listeners:
    """Listen on *port*, a number ("0" is any free one), for virtual machines: vsock(7).

    Raises `StartupError`.
    """
    if not port.isdecimal():
        raise StartupError(f"-p {port}: with --vsock a port is a number")
    number = int(port) or _VMADDR_PORT_ANY
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, number))
    except OSError as error:
        raise StartupError(f"cannot listen on vsock port {port}: {error.strerror}") from error
    return Listeners([_listen(listener)])


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Let the sockets that this thread makes have a *label* of SELinux.  Raises `StartupError`."""
    _set_label(label)
    try:
        yield
    finally:
        _set_label("")


def _set_label(label: str) -> None:
    try:
        with open("/proc/thread-self/attr/sockcreate", "wb", buffering=0) as file:
            file.write(os.fsencode(label) + b"\0" if label else b"")
    except OSError as error:
        reason = "SELinux does not know it, or is not enabled here"
        raise StartupError(f"--selinux-label {label}: {reason} ({error.strerror})") from error


def listen_unix(path: str, mode: int | None = None) -> Listeners:
    """Listen on a Unix domain socket at *path*, which must not exist.  Raises `StartupError`.

    Its permissions are *mode*, or what the umask leaves.
    """
    return Listeners([_bind_unix(path, mode)], path)


def _bind_unix(path: str, mode: int | None = None) -> socket.socket:
    if not _fits(path):
        raise StartupError(
            f"cannot listen on {path}: a path of {len(os.fsencode(path))} bytes is too long for a"
            f" Unix domain socket, which can have {LONGEST_UNIX_PATH}; use a shorter one"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _permissions(mode):
            listener.bind(path)
        return _listen(listener)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason += " (by another server, or by a socket file left behind, which must be removed)"
        raise StartupError(f"cannot listen on {path}: {reason}") from error


@contextmanager
def _permissions(mode: int | None) -> Iterator[None]:
    """Let a file that is made here have *mode* from its first moment on."""
    umask = os.umask(0o077)
    os.umask(umask if mode is None else 0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(umask)


def listen_private() -> Listeners:
    """Listen on a Unix domain socket that only this user can find.  Raises `StartupError`."""
    directory = _make_private_directory()
    path = os.path.join(directory, "socket")
    try:
        return Listeners([_bind_unix(path)], path, directory)
    except StartupError:
        os.rmdir(directory)
        raise


def _make_private_directory() -> str:
    """Make a directory in $TMPDIR, or in another place if the socket's path would be too long."""
    import tempfile  # and all that it imports

    failure = None
    for place in dict.fromkeys((tempfile.gettempdir(), f"/run/user/{os.getuid()}", "/tmp")):
        if not _fits(os.path.join(place, "nbdforkXXXXXXXX", "socket")):
            continue
        try:
            return tempfile.mkdtemp(prefix="nbdfork", dir=place)
        except OSError as error:
            failure = failure or error
    raise StartupError(f"cannot make a private directory: {failure}") from failure


def _fits(path: str) -> bool:
    return len(os.fsencode(path)) <= LONGEST_UNIX_PATH


def _listen(listener: socket.socket) -> socket.socket:
    listener.listen(socket.SOMAXCONN)
    listener.setblocking(False)
    return listener


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()


# -- sockets from a service manager -----------------------------------------------------------


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
    return Listeners([_adopt(ACTIVATION_FD + index) for index in range(int(text))])


def _adopt(fd: int) -> socket.socket:
    what = f"the descriptor {fd} passed by LISTEN_FDS"
    try:
        listener = socket.socket(fileno=fd)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise StartupError(f"{what} is not listening")
    except OSError as error:
        raise StartupError(f"{what}: {error}") from error
    if listener.type != socket.SOCK_STREAM or listener.family not in _FAMILIES:
        families = ", ".join(_FAMILIES.values())
        raise StartupError(
            f"{what} is a socket of family {int(listener.family)} and type {int(listener.type)};"
            f" clients are served on stream sockets of these families: {families}"
        )
    os.set_inheritable(fd, False)
    listener.setblocking(False)
    return listener


def is_shut_down(listener: socket.socket) -> bool:
    """Return whether somebody has shut down a listening socket; see shutdown(2)."""
    looking = select.poll()
    looking.register(listener, select.POLLHUP | select.POLLRDHUP)
    return bool(looking.poll(0))


def _listen_again(old: socket.socket, name: Any, mode: int | None) -> socket.socket:
    """Return a socket that listens in the place of *old*, which was shut down."""
    family = old.family
    old.close()  # or its address would be taken
    if family != socket.AF_UNIX:
        return _bind_tcp(family, name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if isinstance(name, str):  # an abstract one has no file
            os.unlink(name)
        with _permissions(mode):
            listener.bind(name)
        return _listen(listener)
    except BaseException:
        listener.close()
        raise


# -- accepted connections -------------------------------------------------------

_FAMILIES: dict[int, str] = {
    socket.AF_UNIX: "AF_UNIX",
    socket.AF_INET: "AF_INET",
    socket.AF_INET6: "AF_INET6",
    socket.AF_VSOCK: "AF_VSOCK",
}
"""The address families whose clients can be served."""


_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""A client whose machine is gone is noticed in two minutes, and not, as is the default, hours."""


def prepare_client(client: socket.socket, keepalive: bool) -> None:
    """Set the options of an accepted connection.  Raises OSError if the client has gone."""
    if client.family in (socket.AF_INET, socket.AF_INET6):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if keepalive:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                client.setsockopt(socket.IPPROTO_TCP, option, value)
