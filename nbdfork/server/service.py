"""How one client is served, whatever it is that serves it."""

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from nbdfork.server import peers, sockets
from nbdfork.server.admission import Admission, Door
from nbdfork.server.departures import Line
from nbdfork.server.peers import Peer
from nbdfork.server.sandbox.sandbox import Sandbox
from nbdfork.server.slots import Slot
from nbdfork.server.stopper import Servable, Stopper

log = logging.getLogger(__name__)

OnExport: TypeAlias = Callable[[str], None]
"""Is told the name of the export that a client has chosen."""


class Service(NamedTuple):
    """How clients are served; given to the server wing by its caller.

    *after_fork* is called in each worker before its first client, *cleanup* after its last.  The
    former is given a function that stops the whole server, and a descriptor that is readable once
    this process has been told to end.  *connect* makes a client of a stream and its peer, and has
    what it does counted in its slot; only those who fulfil the conditions of *admission* come so
    far.  A worker serves *clients_per_worker* clients (0: any number), *clients_at_once* of them at
    the same time, in the *sandbox*.  *one_process*: all clients need the same worker.
    *memory_budget*: how many bytes of data the large requests of all clients may hold; 0 is any
    number.  *locked*: the memory of workers is not swapped out.
    """

    after_fork: Callable[[Callable[[], None], int], None]
    connect: Callable[[socket.socket, Peer, OnExport, Slot], Servable]
    cleanup: Callable[[], None]
    admission: Admission
    keepalive: bool
    clients_per_worker: int
    clients_at_once: int
    sandbox: Sandbox
    one_process: bool = False
    memory_budget: int = 0
    locked: bool = False


Admitted: TypeAlias = tuple[socket.socket, Peer]
"""A client that was let in, and who it is."""


def admit(client: socket.socket, service: Service, door: Door, slot: Slot) -> Admitted | None:
    """Return *client* and who it is; close it if it has gone already or is not let in."""
    try:
        sockets.prepare_client(client, service.keepalive)
        peer = peers.identify(client)
    except OSError as error:
        log.info("lost a client at once: %s", error)
    else:
        if door.lets_in(peer, slot):
            return client, peer
    client.close()
    return None


def serve(
    client: socket.socket,
    peer: Peer,
    service: Service,
    stopper: Stopper,
    slot: Slot,
    announce: Callable[[], None],
    line: Line | None,
) -> None:
    """Serve one client to its end; *slot* says who it is, and *announce* is called for changes.

    If there is a *line*, it tells when the client leaves, as long as it is served.
    """

    def on_export(name: str) -> None:
        slot.set_export(name)
        announce()

    slot.begin(peer.shown)
    if line is not None:
        line.watch(client)
        slot.on_closing = partial(line.unwatch, client)
    announce()
    log.info("client %s connected", peer.shown)
    try:
        stopper.serve(service.connect(client, peer, on_export, slot))
    except BaseException as error:
        log.error("client %s is lost: %s in its worker", peer.shown, type(error).__name__)
        raise
    log.info("client %s is gone", peer.shown)
