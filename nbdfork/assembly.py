"""Put the wings together: give the processes what they need to serve a chain's exports.

Neither wing knows the other; what passes between them is decided here.
"""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from nbdfork import logs
from nbdfork.backend.chain import Chain
from nbdfork.backend.exports import Exports
from nbdfork.backend.life import Life
from nbdfork.plugin import ConfigError, ThreadModel
from nbdfork.protocol.access import admits_all
from nbdfork.protocol.connection import Connection, Settings
from nbdfork.protocol.handshake import Offer
from nbdfork.protocol.stream import Stream
from nbdfork.protocol.transmission import Meter
from nbdfork.server.admission import EVERYBODY, Admission, Rules
from nbdfork.server.errors import StartupError
from nbdfork.server.peers import Peer
from nbdfork.server.pool import PoolSize
from nbdfork.server.sandbox.sandbox import Plan, Sandbox
from nbdfork.server.service import OnExport, Service
from nbdfork.server.sockets import Listeners
from nbdfork.server.supervisor import Supervisor
from nbdfork.server.watchdog import DEFAULT_LIMITS, HangLimits

log = logging.getLogger(__name__)

THREADS = 16
"""How many requests of one client a disk that waits gets at once; nbdkit's number."""


class Terms(NamedTuple):
    """On which terms clients are served.

    *handshake_limit*: the seconds that a client may take to choose an export; 0 is for ever.
    *read_only* makes every export so, and *export_name* is the only one that there is, if given.
    *idle_limit*: the seconds that it may then be silent, or not take its replies.
    *threads*: how many requests of one client are carried out at the same time, if the plugin
    allows it; None is what suits the plugin.  *keepalive* is TCP's.  *most_per_party* and *rules*:
    see `Admission`.
    """

    newstyle: bool
    offer: Offer
    handshake_limit: float
    idle_limit: float = 0.0
    read_only: bool = False
    export_name: str | None = None
    threads: int | None = None
    keepalive: bool = True
    most_per_party: int | None = None
    rules: Rules = EVERYBODY


def supervisor(
    life: Life,
    listeners: Listeners,
    terms: Terms,
    size: PoolSize,
    shutdown_limit: float,
    plan: Plan,
    hang_limits: HangLimits = DEFAULT_LIMITS,
) -> Supervisor:
    """Return the supervisor of a pool that serves the chain of *life* on *listeners*.

    A plugin whose clients share what is in its memory is served by one worker that stays; then
    *size* has no meaning, but for the most clients at once.  *shutdown_limit*: how many seconds
    workers get, at the end, to finish with their clients; *hang_limits*: how long plugins may take.
    The workers are in sandboxes as *plan* has them.
    """
    chain = life.chain
    clients_at_once, max_clients = 1, size.max_clients
    one_process = chain.one_process()
    if one_process:
        one_at_a_time = chain.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS
        clients_at_once = 1 if one_at_a_time else size.max_clients
        size = PoolSize.one()
    service = Service(
        partial(_after_fork, life),
        connector(chain, terms),
        life.cleanup,
        Admission.for_pool(max_clients, terms.most_per_party, terms.rules),
        terms.keepalive,
        size.clients_per_worker,
        clients_at_once,
        sandbox(
            chain,
            terms,
            plan,
            clients=size.clients_per_worker * clients_at_once,
            workers=size.max_clients,
        ),
        one_process,
    )
    return Supervisor(listeners, size, service, shutdown_limit, hang_limits)


def _after_fork(life: Life, stop: Callable[[], None], ending: int) -> None:
    """See `Life.after_fork`.  Raises `StartupError` for what a plugin says in a line of its own."""
    try:
        life.after_fork(stop, ending)
    except ConfigError as error:
        log.debug("after_fork failed:", exc_info=True)
        raise StartupError(str(error)) from error


def sandbox(chain: Chain, terms: Terms, plan: Plan, *, clients: int, workers: int = 1) -> Sandbox:
    """Return the sandbox of up to *workers* that serve *clients* of *chain* each (0: any)."""
    needs = chain.needs()
    if terms.read_only:
        needs = needs._replace(read=needs.read | needs.write, write=frozenset())
    made = Sandbox(
        plan,
        needs,
        one_client=clients == 1 and not chain.acts_before_clients(),
        workers=workers,
        logs_to_syslog=logs.go_to_syslog(),
    )
    log.info("sandbox: %s", made.describe())
    return made


Connector: TypeAlias = Callable[[Stream, Peer | None, OnExport, Meter], Connection]
"""Makes a connection of a stream and of the peer at its other end, if that is known."""


def connector(chain: Chain, terms: Terms) -> Connector:
    """Return what makes the clients of *chain*."""
    exports = Exports(chain, read_only=terms.read_only, name=terms.export_name)
    spins = len(os.sched_getaffinity(0)) > 1
    threads = _threads(chain, terms.threads)
    settings = Settings(
        terms.newstyle, terms.handshake_limit, terms.offer, threads, spins, terms.idle_limit
    )

    def connect(stream: Stream, peer: Peer | None, on_export: OnExport, meter: Meter) -> Connection:
        admits = admits_all if peer is None else partial(terms.rules.admit, peer)
        return Connection(stream, exports, settings, on_export, meter, admits)

    return connect


def _threads(chain: Chain, wanted: int | None) -> int:
    """Return how many requests of one client are carried out at once."""
    if chain.thread_model() is not ThreadModel.PARALLEL:
        return 1
    threads = wanted or (THREADS if chain.waits() else 1)
    if threads > 1:
        from nbdfork.protocol import parallel  # noqa: F401  # now, while it can be read
    return threads
