"""Serve a disk from within a program: `nbdfork.serve`.

    with nbdfork.serve(MyDisk(size="1M")) as server:
        print(server.uri)

The server is a process of its own, forked from the program, with the workers below it.  It ends
with the `with` block, and with the program, however that ends.
"""

import logging
import os
import weakref
from types import TracebackType

import psutil

from nbdfork import assembly, launch
from nbdfork.assembly import Disk, Shelf, Terms
from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.handle import Handle
from nbdfork.launch import Listening, ReadyPipe
from nbdfork.options import Options
from nbdfork.plugin import ConfigError, Filter, Plugin, parse
from nbdfork.protocol.handshake import Offer
from nbdfork.server import daemon
from nbdfork.server.errors import StartupError
from nbdfork.server.pool import PoolSize
from nbdfork.server.sandbox.programs import confinement
from nbdfork.server.sandbox.sandbox import Plan
from nbdfork.server.sockets import Listeners
from nbdfork.uri import Endpoint

log = logging.getLogger(__name__)

_STOP_SECONDS = 30.0

_leashes: set[int] = set()
"""The ends of pipes that this program holds to keep its servers running."""


_served: weakref.WeakValueDictionary[int, Plugin] = weakref.WeakValueDictionary()
"""The plugins and filters that have been served, by their identity."""


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

    def __init__(self, endpoint: Endpoint, pid: int, leash: int) -> None:
        self.port = endpoint.port
        self.unix_path = endpoint.unix_path
        self.uri = endpoint.uri()
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
    max_clients: int = Options.max_clients.default,
    tls_certificates: str | None = None,
    tls_psk: str | None = None,
    tls_verify_peer: bool = False,
    sandbox: str = Options.sandbox.default,
) -> Server:
    """Serve *plugin*, behind *filters* (the first nearest to the clients), and return at once.

    By default it listens on a private Unix domain socket; *unix* is the path of another, *port*
    a TCP port on *address* (0: any free one).  Clients can connect when this returns.  With
    *tls_certificates* or *tls_psk*, a path, clients have to use TLS.  *sandbox* is "auto", "off" or
    "require".  See the options so named.  Raises `ConfigError` or `StartupError`; ValueError for
    arguments that contradict each other, or a plugin that has been served before.
    """
    if unix is not None and port is not None:
        raise ValueError("a server listens on unix= or on port=, not on both")
    if tls_psk is not None and (tls_certificates is not None or tls_verify_peer):
        raise ValueError("tls_psk= takes the place of certificates")
    if tls_verify_peer and tls_certificates is None:
        raise ValueError("tls_verify_peer= needs tls_certificates=")
    plan = Plan(parse.choice("off", "auto", "require")(sandbox), {}, os.geteuid())
    has_tls = tls_certificates is not None or tls_psk is not None
    offer = Offer()
    if has_tls:
        from nbdfork import credentials  # and all that it imports

        offer = offer._replace(
            tls=credentials.load(
                certificates=tls_certificates,
                psk=tls_psk,
                verify_peer=tls_verify_peer,
                required=True,
            )
        )
    is_newstyle = newstyle or export_name is not None or has_tls
    limit = Options.handshake_limit.default
    terms = Terms(is_newstyle, offer, limit)
    _demand_unused(plugin, *filters)
    server = Handle(confine=confinement(plan))
    chain = Chain(_layer(plugin), [_layer(one) for one in filters], server=server)
    chain.configure(())
    _served.update({id(one): one for one in (plugin, *filters)})
    shelf = Shelf.of(Disk(chain, export_name, read_only))
    listening = Listening(unix="-" if unix is None else unix)
    if port is not None:
        listening = Listening(address, str(port))
    listeners = listening.listen()
    try:
        shelf.life.get_ready()
        shelf.check_access()
        tls = launch.tls_parameters(tls_certificates, tls_psk) if has_tls else None
        endpoint = launch.endpoint(listeners, export_name, tls)
        size = PoolSize(max_clients, min(2, max_clients), Options.clients_per_worker.default)
        return Server(endpoint, *_fork(shelf, listeners, terms, size, plan))
    except BaseException:
        listeners.remove()
        raise
    finally:
        listeners.close()


def _demand_unused(*layers: Plugin) -> None:
    """Raise ValueError for one that has a server already: it is for the life of one."""
    for one in layers:
        if _served.get(id(one)) is one:
            raise ValueError(f"this {type(one).__name__} has been served before: make another one")


def _layer(plugin: Plugin) -> Layer:
    return Layer(type(plugin).__name__, plugin)


def _fork(
    shelf: Shelf, listeners: Listeners, terms: Terms, size: PoolSize, plan: Plan
) -> tuple[int, int]:
    """Fork the supervisor and wait until it is ready.

    Return its pid, and the end of a pipe that ends the server when it is closed, be it because
    this program has died.  Raises `StartupError`.
    """
    ready = ReadyPipe()
    leash_end, leash = os.pipe()
    _leashes.add(leash)
    pid = os.fork()
    if pid == 0:
        ready.begin()
        _become_supervisor(shelf, listeners, terms, size, plan, ready, leash_end)
    os.close(leash_end)
    try:
        ready.wait()
    except StartupError:
        _leashes.discard(leash)
        os.close(leash)
        psutil.Process(pid).wait(_STOP_SECONDS)
        raise
    return pid, leash


def _become_supervisor(
    shelf: Shelf,
    listeners: Listeners,
    terms: Terms,
    size: PoolSize,
    plan: Plan,
    ready: ReadyPipe,
    leash: int,
) -> None:
    """In the child: never return to the program's code."""
    status = 1
    try:
        daemon.open_standard_streams()  # the program may do without them
        limit = Options.shutdown_limit.default
        supervisor = assembly.supervisor(shelf, listeners, terms, size, limit, plan)
        supervisor.end_with(leash)
        try:
            supervisor.run(ready.tell_ready)
        finally:
            shelf.life.finish()
        status = 0
    except Exception as error:
        log.debug("the server failed", exc_info=True)
        ready.tell_failed(str(error))
    finally:
        listeners.remove_private()
        os._exit(status)


__all__ = ["ConfigError", "Server", "StartupError", "serve"]
