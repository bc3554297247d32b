"""Put the wings together: give the processes what they need to serve a backend's exports.

Neither wing knows the other; what passes between them is decided here.
"""

import os
from typing import NamedTuple

from nbdfork.backend.backend import Backend
from nbdfork.plugin.plugin import ThreadModel
from nbdfork.protocol.connection import Connection, Settings
from nbdfork.protocol.handshake import Offer
from nbdfork.server.admission import EVERYBODY, Admission, Rules
from nbdfork.server.pool import PoolSize
from nbdfork.server.service import Service
from nbdfork.server.sockets import Listeners
from nbdfork.server.supervisor import Supervisor
from nbdfork.server.watchdog import DEFAULT_LIMITS, HangLimits

THREADS = 16
"""How many requests of one client a disk that waits gets at once; nbdkit's number."""


class Terms(NamedTuple):
    """On which terms clients are served.

    *handshake_limit*: the seconds that a client may take to choose an export; 0 is for ever.
    *threads*: how many requests of one client are carried out at the same time, if the plugin
    allows it; None is what suits the plugin.  *keepalive* is TCP's.  *most_per_party* and *rules*:
    see `Admission`.
    """

    newstyle: bool
    offer: Offer
    handshake_limit: float
    threads: int | None = None
    keepalive: bool = True
    most_per_party: int | None = None
    rules: Rules = EVERYBODY


def supervisor(
    backend: Backend,
    listeners: Listeners,
    terms: Terms,
    size: PoolSize,
    shutdown_limit: float,
    hang_limits: HangLimits = DEFAULT_LIMITS,
) -> Supervisor:
    """Return the supervisor of a pool that serves *backend* on *listeners*.

    A plugin whose clients share what is in its memory is served by one worker that stays; then
    *size* has no meaning, but for the most clients at once.  *shutdown_limit*: how many seconds
    workers get, at the end, to finish with their clients; *hang_limits*: how long plugins may take.
    """
    clients_at_once, max_clients = 1, size.max_clients
    one_at_a_time = backend.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS
    if backend.one_process():
        clients_at_once = 1 if one_at_a_time else size.max_clients
        size = PoolSize.one()
    spoken = settings(backend, terms)
    service = Service(
        backend.after_fork,
        lambda client, on_export, meter: Connection(client, backend, spoken, on_export, meter),
        backend.cleanup,
        Admission.for_pool(max_clients, terms.most_per_party, terms.rules),
        terms.keepalive,
        size.clients_per_worker,
        clients_at_once,
    )
    return Supervisor(listeners, size, service, shutdown_limit, hang_limits)


def settings(backend: Backend, terms: Terms) -> Settings:
    """Return how clients of *backend* are spoken to."""
    spins = len(os.sched_getaffinity(0)) > 1
    threads = _threads(backend, terms.threads)
    return Settings(terms.newstyle, terms.handshake_limit, terms.offer, threads, spins)


def _threads(backend: Backend, wanted: int | None) -> int:
    """Return how many requests of one client are carried out at once."""
    if backend.thread_model() is not ThreadModel.PARALLEL:
        return 1
    threads = wanted or (THREADS if backend.waits() else 1)
    if threads > 1:
        from nbdfork.protocol import parallel  # noqa: F401  # now, while it can be read
    return threads
