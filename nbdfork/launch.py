"""How a server is launched, by the command or by a program.

It listens where it is told to.  A pipe tells the process that waits for it whether it is ready.  If
it cannot be started, the files that were made for it are removed again; in a normal end they stay.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, NoReturn

from nbdfork.plugin import ConfigError
from nbdfork.server import daemon, privileges, sockets
from nbdfork.server.errors import StartupError
from nbdfork.server.privileges import Identity
from nbdfork.server.sockets import Listeners
from nbdfork.uri import Endpoint

log = logging.getLogger(__name__)

_READY = b"ready"
_WILDCARDS = ("0.0.0.0", "::")
_BEST_KNOWN = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_VSOCK)
_LOCAL_CID = 1
"""The vsock context that is this machine itself: VMADDR_CID_LOCAL of vsock(7)."""


class Listening(NamedTuple):
    """Where a server is to listen.

    *activated*: on the sockets that a service manager has passed; or at the path *unix*, "-" being
    a private one, with the permissions *unix_mode* if that is not None; or on the TCP *port*, a
    number or the name of a service, of *address*, None being all interfaces, with the address
    *family*; or, with *vsock*, on this port for virtual machines.  The socket has the
    *selinux_label*, if that is not None.
    """

    address: str | None = None
    port: str = "10809"
    family: int = socket.AF_UNSPEC
    unix: str | None = None
    unix_mode: int | None = None
    activated: bool = False
    vsock: bool = False
    selinux_label: str | None = None

    def listen(self) -> Listeners:
        """Start to listen.  Raises `StartupError`."""
        if self.selinux_label is None:
            return self._listen()
        with sockets.labelled(self.selinux_label):
            return self._listen()

    def _listen(self) -> Listeners:
        if self.unix_mode is not None and self.unix in (None, "-"):
            raise StartupError("--unix-mode is for a socket that -U names")
        if self.activated:
            return sockets.listen_activated(os.environ)
        if self.unix == "-":
            return sockets.listen_private()
        if self.unix is not None:
            return sockets.listen_unix(self.unix, self.unix_mode)
        if self.vsock:
            return sockets.listen_vsock(self.port)
        return sockets.listen_tcp(self.address, self.port, self.family)


def endpoint(
    listeners: Listeners, export_name: str | None, tls: Mapping[str, str] | None
) -> Endpoint:
    """Return where clients on this machine find a server that listens on *listeners*.

    If there are several sockets, one of the family that most clients know is named.
    """
    found = min(listeners.sockets, key=lambda one: _BEST_KNOWN.index(one.family))
    name = found.getsockname()
    where = Endpoint(export_name=export_name or "", tls=tls)
    if found.family == socket.AF_UNIX:
        return where._replace(unix_path=os.fsdecode(name))
    host, port = name[:2]
    if found.family == socket.AF_VSOCK:
        cid = _LOCAL_CID if host == socket.VMADDR_CID_ANY else host
        return where._replace(cid=cid, port=port)
    return where._replace(host=_loopback(found.family) if host in _WILDCARDS else host, port=port)


def _loopback(family: int) -> str:
    """Return what clients on this machine call it in a *family* that the server listens on.

    "localhost" is not an address of IPv6 on every machine.
    """
    if family == socket.AF_INET6:
        try:
            socket.getaddrinfo("localhost", None, family)
        except socket.gaierror:
            return "::1"
    return "localhost"


def tls_parameters(certificates: str | None, psk: str | None) -> dict[str, str]:
    """Return the parameters of a URI by which libnbd finds what it needs for TLS."""
    files = {"tls-certificates": certificates, "tls-psk-file": psk}
    return {name: path for name, path in files.items() if path is not None}


def check_as(identity: Identity | None, check: Callable[[], None]) -> None:
    """Call *check* as *identity*, or as who we are if that is None.

    What it says of a fault is raised as `StartupError`, unless it raises `ConfigError` here.
    """
    if identity is None:
        check()
        return
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _tell_fault(writer, identity, check)
    os.close(writer)
    with open(reader, "rb") as pipe:
        message = pipe.read().decode(errors="surrogatepass")
    _, status = os.waitpid(child, 0)
    if message or status:
        raise StartupError(message or "it died while it was tried to open the disks")


def _tell_fault(writer: int, identity: Identity, check: Callable[[], None]) -> NoReturn:
    """In a process for this alone: write to *writer* what *identity* finds wrong, and end."""
    message = ""
    try:
        privileges.drop_to(identity)
        check()
    except (ConfigError, StartupError, OSError) as error:
        message = str(error)
    except BaseException as error:
        message = f"the server cannot start: {type(error).__name__}: {error}"
    finally:
        with open(writer, "wb") as pipe:
            pipe.write(message.encode(errors="surrogatepass"))
        os._exit(0)


# -- how it went ----------------------------------------------------------------------------


class ReadyPipe:
    """The way from a server that is being started to the process that waits for it.

    It is made before the fork that parts the two.  A message ends with a null byte; the first is
    the process ID of the server, the second says whether it is ready.
    """

    def __init__(self) -> None:
        self.server: int | None = None  # once `wait` has returned or raised, if it is known
        self._reader, self.writer = os.pipe()
        self._has_begun = False

    def begin(self) -> None:
        """In the server: this is the process that is waited for."""
        os.close(self._reader)
        self._has_begun = True
        with suppress(BrokenPipeError):
            self._tell(str(os.getpid()).encode())

    def tell_ready(self) -> None:
        """In the server: clients can connect.

        Raises `StartupError` if nobody waits any more: then nobody could know of the server.
        """
        try:
            self._tell(_READY)
        except BrokenPipeError:
            raise StartupError("the process that waited for the server is gone") from None
        finally:
            os.close(self.writer)

    def tell_failed(self, message: str) -> None:
        """In the server: it ends without having been ready."""
        with suppress(BrokenPipeError):
            if not self._has_begun:
                self.begin()
            self._tell(message.encode(errors="surrogatepass"))  # file names are in it
        os.close(self.writer)

    def _tell(self, message: bytes) -> None:
        os.write(self.writer, message + b"\0")

    def wait(self) -> None:
        """In the process that waits: return when the server is ready.

        Raises `StartupError` with what the server said if it could not be started.
        """
        os.close(self.writer)
        received = b""
        # Not to its end: if the server dies, workers may hold the other end for longer.
        while received.count(b"\0") < 2 and (more := os.read(self._reader, 65536)):
            received += more
        os.close(self._reader)
        pid, _, outcome = received.partition(b"\0")
        self.server = int(pid) if pid else None
        outcome = outcome.removesuffix(b"\0")
        if outcome != _READY:
            message = outcome.decode(errors="surrogatepass")
            raise StartupError(message or "the server died while it was starting")


class Start:
    """The command's way to a server that is ready, and what is undone if it does not get there.

    It is a context manager around all that happens, once the server listens, to its end.
    """

    def __init__(
        self, listeners: Listeners | None, pidfile: str | None, *, is_first: bool = True
    ) -> None:
        """Unless it *is_first*, the program takes the place of another, whose listeners and pidfile
        stay if it cannot be started.
        """
        self._is_first = is_first
        self._listeners = listeners
        self._pidfile = pidfile
        self._server: int | None = os.getpid()
        self._pipe: ReadyPipe | None = None  # in the server, if another process waits for it
        self._is_ready = False

    def __enter__(self) -> "Start":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Undo what has to be undone.  A waiting process is told of an error, which ends here."""
        if self._listeners is not None:
            self._listeners.close()
        if not self._is_first and not self._is_ready:
            return False
        if self._listeners is not None:
            if self._is_ready:
                self._listeners.remove_private()
            else:
                self._listeners.remove()
        if self._is_ready:
            return False
        self._remove_pidfile()
        if self._pipe is None or not isinstance(error, Exception):
            return False
        if isinstance(error, StartupError | OSError):
            self._pipe.tell_failed(str(error))
        else:
            log.error("the server cannot start:", exc_info=error)
            self._pipe.tell_failed(f"the server cannot start: {type(error).__name__}: {error}")
        return True

    def go_into_background(self, inherited: Iterable[int], keep_stderr: bool) -> None:
        """Go on as a daemon; see `daemon.detach`.

        The calling process waits, and ends with status 0 when the server is ready.  If the server
        cannot be started, this raises `StartupError` in the calling process.
        """
        sys.stdout.flush()
        pipe = ReadyPipe()
        child = os.fork()
        if child:
            self._wait_for_server(pipe, child)
        self._pipe = pipe
        daemon.detach(inherited, [pipe.writer], keep_stderr)
        self._server = os.getpid()
        pipe.begin()

    def _wait_for_server(self, pipe: ReadyPipe, child: int) -> NoReturn:
        try:
            pipe.wait()
        except SystemExit as error:  # by a signal; the server finds nobody to tell, and ends
            os._exit(int(str(error.code)))
        finally:
            self._server = pipe.server
            os.waitpid(child, 0)  # which only forked the server's process
        os._exit(0)  # what there is to clean up is the server's now

    def write_pidfile(self) -> None:
        """Write the pidfile, if there is to be one.  Raises `StartupError`."""
        if self._pidfile is not None and self._is_first:
            daemon.write_pidfile(self._pidfile)

    def _remove_pidfile(self) -> None:
        if self._pidfile is None or self._server is None:
            return
        try:
            daemon.remove_pidfile(self._pidfile, self._server)
        except OSError as error:
            log.warning("%s is left behind: %s", self._pidfile, error.strerror)

    def tell_ready(self) -> None:
        """Clients can connect.  Raises `StartupError` if who waited for it is gone."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            pipe.tell_ready()
        self._is_ready = True
