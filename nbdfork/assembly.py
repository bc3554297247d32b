"""Put the wings together: give the processes what they need to serve a backend's exports.

Neither wing knows the other; what passes between them is decided here.
"""

import os
from typing import TYPE_CHECKING

from nbdfork.backend.backend import Backend
from nbdfork.options import Options
from nbdfork.plugin.plugin import ThreadModel
from nbdfork.protocol import wire
from nbdfork.protocol.connection import Connection, Settings
from nbdfork.protocol.handshake import Offer
from nbdfork.server.pool import PoolSize
from nbdfork.server.service import Service
from nbdfork.server.sockets import Listeners
from nbdfork.server.supervisor import Supervisor

if TYPE_CHECKING:
    from nbdfork.protocol.tls import Tls

THREADS = 16
"""How many requests of one client a disk that waits gets at once; nbdkit's number."""


def supervisor(options: Options, backend: Backend, listeners: Listeners) -> Supervisor:
    """Return the supervisor of a pool that serves *backend* on *listeners*.

    A plugin whose clients share what is in its memory is served by one worker that stays; then
    the options for the size of the pool have no meaning, but for the most clients at once.
    """
    size = PoolSize(options.max_clients, options.spare_workers, options.clients_per_worker)
    clients_at_once = 1
    one_at_a_time = backend.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS
    if backend.one_process():
        size = PoolSize.one()
        clients_at_once = 1 if one_at_a_time else options.max_clients
    spoken = settings(options, backend)
    service = Service(
        backend.after_fork,
        lambda client, on_export, meter: Connection(client, backend, spoken, on_export, meter),
        backend.cleanup,
        options.keepalive,
        size.clients_per_worker,
        clients_at_once,
    )
    return Supervisor(listeners, size, service, options.shutdown_limit)


def settings(options: Options, backend: Backend) -> Settings:
    """Return how clients are spoken to.  Raises `StartupError` if TLS cannot be had."""
    flags = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
    offer = Offer(
        flags=flags & options.mask_handshake,
        extended_headers=not (options.no_extended_headers or options.no_structured_replies),
        structured_replies=not options.no_structured_replies,
        meta_contexts=not options.no_meta_contexts,
        tls=_tls(options),
    )
    spins = len(os.sched_getaffinity(0)) > 1
    threads = _threads(options, backend)
    return Settings(options.newstyle, options.handshake_limit, offer, threads, spins)


def _tls(options: Options) -> "Tls | None":
    if options.tls == "off":
        return None
    from nbdfork import tls  # and all that it imports

    return tls.load(options)


def _threads(options: Options, backend: Backend) -> int:
    """Return how many requests of one client are carried out at once."""
    if backend.thread_model() is not ThreadModel.PARALLEL:
        return 1
    threads = options.threads or (THREADS if backend.waits() else 1)
    if threads > 1:
        from nbdfork.protocol import parallel  # noqa: F401  # now, while it can be read
    return threads
