"""Serve a disk from within a program: `nbdfork.serve`.

    with nbdfork.serve(MyDisk(size="1M")) as server:
        print(server.uri)

The server is a process of its own, forked from the program, with the workers below it.  It ends
with the `with` block, and with the program, however that ends.
"""

import logging
import os
import socket
from types import TracebackType

import psutil

from nbdfork import assembly, uri
from nbdfork.backend.backend import Backend, Layer
from nbdfork.options import Options
from nbdfork.plugin import Filter
from nbdfork.plugin.errors import ConfigError
from nbdfork.plugin.plugin import Plugin
from nbdfork.server import sockets
from nbdfork.server.errors import StartupError
from nbdfork.server.sockets import Listeners

log = logging.getLogger(__name__)

_READY = b"ready"
_STOP_SECONDS = 30.0

_leashes: set[int] = set()
"""The ends of pipes that this program holds to keep its servers running."""


def _let_go_of_leashes() -> None:
    """In a process that is forked: only the program itself keeps its servers running."""
    for leash in _leashes:
        os.close(leash)
    _leashes.clear()


os.register_at_fork(after_in_child=_let_go_of_leashes)


class Server:
    """A running server; `serve` makes it, and it is a context manager.

    `uri` is where clients find it; so are `unix_path`, or `port` on localhost.  `pid` is the
    supervisor.
    """

    def __init__(self, listeners: Listeners, options: Options, pid: int, leash: int) -> None:
        self.port = listeners.port
        self.unix_path = listeners.unix_path
        name, tls = options.exportname or "", uri.tls_parameters(options)
        self.uri = uri.nbd_uri(listeners.host, self.port, self.unix_path, name, tls)
        self.pid = pid
        self._leash = leash
        self._process = psutil.Process(pid)

    def stop(self) -> None:
        """End the server: what clients have sent is answered, flushed and closed first.

        Raises RuntimeError if the server did not end well.
        """
        if self._leash not in _leashes:
            return  # stopped before; or this is a fork of the program that started it
        _leashes.discard(self._leash)
        os.close(self._leash)
        status = self._process.wait(_STOP_SECONDS)
        if status:
            raise RuntimeError(f"the nbdfork server ended with status {status}")

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def serve(
    plugin: Plugin,
    *filters: Filter,
    unix: str | None = None,
    port: int | None = None,
    address: str = "localhost",
    export_name: str | None = None,
    newstyle: bool = True,
    read_only: bool = False,
    max_clients: int = 256,
    tls_certificates: str | None = None,
    tls_psk: str | None = None,
    tls_verify_peer: bool = False,
) -> Server:
    """Serve *plugin*, behind *filters* (the first nearest to the clients), and return at once.

    By default it listens on a private Unix domain socket; *unix* is the path of another, *port*
    a TCP port on *address* (0: any free one).  Clients can connect when this returns.  With
    *tls_certificates* or *tls_psk*, a path, clients have to use TLS; see the options so named.
    Raises `ConfigError` or `StartupError`.
    """
    if unix is not None and port is not None:
        raise ValueError("a server listens on unix= or on port=, not on both")
    if tls_psk is not None and (tls_certificates is not None or tls_verify_peer):
        raise ValueError("tls_psk= takes the place of certificates")
    if tls_verify_peer and tls_certificates is None:
        raise ValueError("tls_verify_peer= needs tls_certificates=")
    has_tls = tls_certificates is not None or tls_psk is not None
    options = Options(
        newstyle=newstyle or export_name is not None or has_tls,
        exportname=export_name,
        readonly=read_only,
        max_clients=max_clients,
        spare_workers=min(2, max_clients),
        tls="require" if has_tls else "off",
        tls_certificates=tls_certificates,
        tls_psk=tls_psk,
        tls_verify_peer=tls_verify_peer,
    )
    backend = Backend(
        _layer(plugin),
        [_layer(one) for one in filters],
        read_only=read_only,
        export_name=export_name,
    )
    backend.configure(())
    listeners = _listen(unix, port, address)
    try:
        backend.get_ready()
        return Server(listeners, options, *_fork(options, backend, listeners))
    except BaseException:
        listeners.remove_private()
        raise
    finally:
        listeners.close()


def _layer(plugin: Plugin) -> Layer:
    return Layer(type(plugin).__name__, plugin)


def _listen(unix: str | None, port: int | None, address: str) -> Listeners:
    if port is not None:
        return sockets.listen_tcp(address, str(port), socket.AF_UNSPEC)
    return sockets.listen_private() if unix is None else sockets.listen_unix(unix)


def _fork(options: Options, backend: Backend, listeners: Listeners) -> tuple[int, int]:
    """Fork the supervisor and wait until it is ready.

    Return its pid, and the end of a pipe that ends the server when it is closed, be it because
    this program has died.
    """
    ready, ready_end = os.pipe()
    leash_end, leash = os.pipe()
    _leashes.add(leash)
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        _become_supervisor(options, backend, listeners, ready_end, leash_end)
    os.close(ready_end)
    os.close(leash_end)
    message = os.read(ready, 65536)
    os.close(ready)
    if message != _READY:
        _leashes.discard(leash)
        os.close(leash)
        psutil.Process(pid).wait(_STOP_SECONDS)
        raise StartupError(message.decode() or "the server died while it was starting")
    return pid, leash


def _become_supervisor(
    options: Options, backend: Backend, listeners: Listeners, ready: int, leash: int
) -> None:
    """In the child: never return to the program's code."""
    status = 1
    try:
        supervisor = assembly.supervisor(options, backend, listeners)
        supervisor.end_with(leash)
        supervisor.run(lambda: _tell(ready, _READY))
        backend.finish()
        status = 0
    except Exception as error:
        log.debug("the server failed", exc_info=True)
        _tell(ready, str(error).encode())
    finally:
        listeners.remove_private()
        os._exit(status)


def _tell(pipe: int, message: bytes) -> None:
    os.write(pipe, message)
    os.close(pipe)


__all__ = ["ConfigError", "Server", "StartupError", "serve"]
