"""Another program in the place of this one: it is rehearsed, and then it takes over.

Until the last step, in which the process becomes the new program, nothing has changed.  A program
that then cannot take over leaves all as it was, and is started again (`handover.Takeover`).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from nbdfork.server import caretaker, processes
from nbdfork.server.errors import StartupError
from nbdfork.server.generations import Generations
from nbdfork.server.handover import Handover, Program, Rehearsal
from nbdfork.server.notify import Notifier
from nbdfork.server.orders import Orders

log = logging.getLogger(__name__)


class Reloadable(NamedTuple):
    """How the server is to be reloaded.

    *program* is what takes over.  *obstacle* says why it cannot be done, unless it is empty.
    *shared* returns the pieces of shared state, for the message; it raises `StartupError` if one
    cannot be handed over.  *demands*, *facts* and *notify*: see `Handover`.  *finish* is called
    when the workers of this program have ended.
    """

    program: Program
    obstacle: str
    shared: Callable[[], list[list[Any]]]
    demands: Mapping[str, Any]
    facts: Mapping[str, Any]
    notify: Mapping[str, str]
    finish: Callable[[], None]


class Replaceable(Protocol):
    """The supervisor, as a reload sees it."""

    def watch(self, fd: int, handler: Callable[[], object]) -> None:
        """Call *handler* whenever *fd* is readable."""

    def unwatch(self, fd: int) -> None:
        """Leave *fd* alone."""

    def hand_over(self) -> Handover:
        """Return what another program needs to go on, but for what `Reloadable` has."""

    def own_descriptors(self) -> Iterable[int]:
        """Return what is of no use to a process that only waits for workers to end."""


class Reload:
    """Reloads of *supervisor*: *orders* and *notifier* are told what becomes of them.

    *others*: children that are to be reaped.  Without *reloadable* none can be done.
    """

    def __init__(
        self,
        supervisor: Replaceable,
        reloadable: Reloadable | None,
        generations: Generations,
        orders: Orders,
        notifier: Notifier,
        others: set[int],
    ) -> None:
        self._supervisor = supervisor
        self._reloadable = reloadable
        self._generations = generations
        self._orders = orders
        self._notifier = notifier
        self._others = others
        self._rehearsal: Rehearsal | None = None

    def begin(self) -> str:
        """Begin a reload, if it can be done; return why not, as far as that is known now."""
        try:
            self._rehearsal = self._begun()
        except (StartupError, OSError) as error:
            log.error("not reloaded: %s", error)
            return str(error)
        self._supervisor.watch(self._rehearsal.output, self._hear)
        log.warning("reloading: looking whether the new program can take over")
        self._notifier.tell_reloading()
        return ""

    def _begun(self) -> Rehearsal:
        if self._reloadable is None:
            raise StartupError("the server is a part of a program, and cannot be reloaded")
        if self._reloadable.obstacle:
            raise StartupError(self._reloadable.obstacle)
        if self._rehearsal is not None:
            raise StartupError("a reload is under way")
        return self._reloadable.program.rehearse(self._message(self._reloadable))

    def _hear(self) -> None:
        """Take note of what the rehearsal says; when it has said all, go on."""
        assert self._rehearsal is not None
        if self._rehearsal.hear():
            return
        rehearsal, self._rehearsal = self._rehearsal, None
        self._supervisor.unwatch(rehearsal.output)
        reason = rehearsal.outcome() or self._become_another()
        log.error("not reloaded: %s", reason)
        self._orders.reload_failed(reason)
        self._notifier.tell_ready()

    def _become_another(self) -> str:
        """Become another program; return why that cannot be done."""
        assert self._reloadable is not None
        self._orders.reload_begins()
        log.warning("reloading: another program takes over")
        workers = self._generations.current.workers
        own = self._supervisor.own_descriptors()
        child = 0
        try:
            child = caretaker.leave(workers, own, self._reloadable.finish)
            message = self._message(self._reloadable)
            self._reloadable.program.replace(message)
        except (OSError, StartupError) as error:
            if child:
                processes.kill(child)
                self._others.add(child)
            return str(error)

    def _message(self, reloadable: Reloadable) -> Handover:
        return self._supervisor.hand_over()._replace(
            shared=reloadable.shared(),
            demands=dict(reloadable.demands),
            facts=dict(reloadable.facts),
            notify=dict(reloadable.notify),
        )

    def stop(self) -> None:
        """The server ends: a reload that is under way comes too late."""
        if self._rehearsal is not None:
            self._supervisor.unwatch(self._rehearsal.output)
            self._rehearsal.stop()
            self._rehearsal = None
            self._orders.reload_failed("the server ends")
