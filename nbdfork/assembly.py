"""Put the wings together: give the processes what they need to serve a chain's exports.

Neither wing knows the other; what passes between them is decided here.
"""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import or_
from typing import NamedTuple, TypeAlias

from nbdfork import logs
from nbdfork.backend.chain import Chain
from nbdfork.backend.exports import Disks, Exports, Served
from nbdfork.backend.life import Life
from nbdfork.plugin import ConfigError, Needs, ThreadModel
from nbdfork.protocol.access import admits_all
from nbdfork.protocol.connection import Connection, Settings, Threads
from nbdfork.protocol.handshake import Offer
from nbdfork.protocol.stream import Stream
from nbdfork.server import budget
from nbdfork.server.admission import EVERYBODY, Admission, Rules
from nbdfork.server.control import Settings as ControlSettings
from nbdfork.server.errors import StartupError
from nbdfork.server.handover import Takeover
from nbdfork.server.notify import Notifier
from nbdfork.server.peers import Peer
from nbdfork.server.pool import PoolSize
from nbdfork.server.reloading import Reloadable
from nbdfork.server.sandbox.sandbox import Plan, Sandbox
from nbdfork.server.service import OnExport, Service
from nbdfork.server.slots import Slot
from nbdfork.server.sockets import Listeners
from nbdfork.server.supervisor import Supervisor
from nbdfork.server.watchdog import DEFAULT_LIMITS, HangLimits

log = logging.getLogger(__name__)

THREADS = 16
"""How many requests of one client a disk that waits gets at once; nbdkit's number."""


class Disk(NamedTuple):
    """What is served, and on which terms clients have it.

    *name* is the only one of the *chain*'s exports that there is, if given; *read_only* makes all
    of them so.  *threads*: how many requests of one client are carried out at the same time, if the
    plugin allows it; None is what suits the plugin.  *description* and *with_tls*: see `Exports`.
    *max_clients*: the most clients at once; 0 is any number.  *rules*: who may have it, of those
    that may have some export at all.
    """

    chain: Chain
    name: str | None = None
    read_only: bool = False
    threads: int | None = None
    description: str = ""
    with_tls: bool = False
    max_clients: int = 0
    rules: Rules = EVERYBODY

    def exports(self) -> Exports:
        """Return what clients can have of it."""
        return Exports(
            self.chain,
            read_only=self.read_only,
            name=self.name,
            description=self.description,
            with_tls=self.with_tls,
        )

    def threads_wanted(self) -> Threads:
        """Return how many requests of one client are carried out at once."""
        if self.chain.thread_model() is not ThreadModel.PARALLEL:
            return Threads(1)
        if self.threads:
            return Threads(self.threads)
        waits = self.chain.waits()
        return Threads(1) if waits is False else Threads(THREADS, adaptive=waits is None)


class Shelf(NamedTuple):
    """All disks of a server, whose chains are those of *life*; each has a name if there are
    several.  *default*: which of them the empty name means; None: none.
    """

    life: Life
    disks: Sequence[Disk]
    default: str | None = None

    @classmethod
    def of(cls, disk: Disk) -> "Shelf":
        """Return the one with nothing but *disk*."""
        return cls(Life(disk.chain), [disk])

    def check_access(self) -> None:
        """Have all disks try to open what clients will get.  Raises `ConfigError`."""
        for disk in self.disks:
            self.life.check_access(disk.chain, disk.read_only)

    def served(self) -> Served:
        """Return what clients can have."""
        if len(self.disks) == 1:
            return self.disks[0].exports()
        named = {str(disk.name): disk.exports() for disk in self.disks}
        return Disks(named, self.default, self.life.begin)

    def needs(self) -> Needs:
        """Return what all of them need of the system to serve clients."""
        return reduce(or_, map(_needs, self.disks))


def _needs(disk: Disk) -> Needs:
    needs = disk.chain.needs()
    if disk.read_only:
        needs = needs._replace(read=needs.read | needs.write, write=frozenset())
    return needs


class Terms(NamedTuple):
    """On which terms clients are served, whatever the disk.

    *handshake_limit*: the seconds that a client may take to choose an export; 0 is for ever.
    *idle_limit*: the seconds that it may then be silent, or not take its replies.  *keepalive* is
    TCP's.  *most_per_party* and *rules*: see `Admission`.  *memory_budget*: how many bytes the data
    of large requests may take, those of all clients together; 0 is any number, None what suits the
    machine.  *locked*: the memory of processes that serve is not swapped out.
    """

    newstyle: bool
    offer: Offer
    handshake_limit: float
    idle_limit: float = 0.0
    keepalive: bool = True
    most_per_party: int | None = None
    rules: Rules = EVERYBODY
    memory_budget: int | None = None
    locked: bool = False


def supervisor(
    shelf: Shelf,
    listeners: Listeners,
    terms: Terms,
    size: PoolSize,
    shutdown_limit: float,
    plan: Plan,
    hang_limits: HangLimits = DEFAULT_LIMITS,
    notifier: Notifier | None = None,
    controlled: ControlSettings | None = None,
    drain_limit: float = 0.0,
    reloadable: Reloadable | None = None,
    takeover: Takeover | None = None,
) -> Supervisor:
    """Return the supervisor of a pool that serves the disks of *shelf* on *listeners*.

    A plugin whose clients share what is in its memory is served by one worker that stays; then
    *size* has no meaning, but for the most clients at once.  *shutdown_limit*: how many seconds
    workers get, at the end, to finish with their clients; *hang_limits*: how long plugins may take.
    *notifier* tells a service manager; the other values: see `Supervisor`.
    The workers are in sandboxes as *plan* has them.
    """
    life = shelf.life
    clients_at_once, max_clients = 1, size.max_clients
    one_process = life.one_process()
    if one_process:
        models = {chain.thread_model() for chain in life.chains}
        one_at_a_time = ThreadModel.SERIALIZE_CONNECTIONS in models
        clients_at_once = 1 if one_at_a_time else size.max_clients
        size = PoolSize.one()
    service = Service(
        partial(_after_fork, life),
        connector(shelf, terms),
        life.cleanup,
        Admission.for_pool(max_clients, terms.most_per_party, terms.rules),
        terms.keepalive,
        size.clients_per_worker,
        clients_at_once,
        sandbox(
            shelf,
            plan,
            clients=size.clients_per_worker * clients_at_once,
            workers=size.max_clients,
        ),
        one_process,
        budget.default_limit() if terms.memory_budget is None else terms.memory_budget,
        terms.locked,
    )
    if controlled is not None:
        walls = {"memory_budget": service.memory_budget, "sandbox": service.sandbox.describe()}
        controlled = controlled._replace(facts={**controlled.facts, **walls})
    return Supervisor(
        listeners,
        size,
        service,
        shutdown_limit,
        hang_limits,
        notifier,
        controlled,
        drain_limit,
        reloadable,
        takeover,
    )


def _after_fork(life: Life, stop: Callable[[], None], ending: int) -> None:
    """See `Life.after_fork`.  Raises `StartupError` for what a plugin says in a line of its own."""
    try:
        life.after_fork(stop, ending)
    except ConfigError as error:
        log.debug("after_fork failed:", exc_info=True)
        raise StartupError(str(error)) from error


def sandbox(shelf: Shelf, plan: Plan, *, clients: int, workers: int = 1) -> Sandbox:
    """Return the sandbox of up to *workers* that serve *clients* each (0: any)."""
    acts_before = any(chain.acts_before_clients() for chain in shelf.life.chains)
    made = Sandbox(
        plan,
        shelf.needs(),
        one_client=clients == 1 and not acts_before,
        workers=workers,
        logs_to_syslog=logs.go_to_syslog(),
    )
    log.info("sandbox: %s", made.describe())
    return made


Connector: TypeAlias = Callable[[Stream, Peer | None, OnExport, Slot], Connection]
"""Makes a connection of a stream and of the peer at its other end, if that is known."""


def connector(shelf: Shelf, terms: Terms) -> Connector:
    """Return what makes the clients of *shelf*."""
    exports = shelf.served()
    threads = {str(disk.name): disk.threads_wanted() for disk in shelf.disks}
    most = max(threads.values())
    if most.number > 1:
        from nbdfork.protocol import adaptive, pipelined  # noqa: F401  # now, while they can be read
    settings = Settings(
        terms.newstyle,
        terms.handshake_limit,
        terms.offer,
        most,
        len(os.sched_getaffinity(0)) > 1,
        terms.idle_limit,
        None if len(threads) == 1 else threads.__getitem__,
    )
    limits = {disk.name: disk.max_clients for disk in shelf.disks if disk.max_clients}
    rules = {disk.name: disk.rules for disk in shelf.disks if disk.rules != EVERYBODY}

    def connect(stream: Stream, peer: Peer | None, on_export: OnExport, slot: Slot) -> Connection:
        def admits(subject: str | None, export: str | None) -> bool:
            assert peer is not None
            if not terms.rules.admit(peer, subject, export):
                return False
            own = None if export is None else rules.get(export) or rules.get(None)
            return own is None or own.admit(peer, subject)

        def takes(export: str) -> bool:
            most = limits.get(export) or limits.get(None)
            return not most or slot.take(export, most)

        whom = admits_all if peer is None else admits
        return Connection(stream, exports, settings, on_export, slot, whom, takes)

    return connect
