"""The supervisor: one loop over two tables, descriptor -> handler and signal -> verb.

It waits, calls what belongs to what has happened, and lets its generation of workers be adjusted,
until it is told to stop; then it drains.  What else it is to react to is a row in one of the
tables.  Signals only record themselves on a pipe, and none ends the server silently.  It never
touches a client's bytes, and it knows its workers by the scoreboard.
"""

import gc
import logging
import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nbdfork.server import processes
from nbdfork.server.control import Settings as ControlSettings
from nbdfork.server.generation import Generation
from nbdfork.server.generations import Generations
from nbdfork.server.handover import Handover, OldGeneration, Takeover, reap
from nbdfork.server.inheritance import FULL, STOP
from nbdfork.server.notify import Notifier
from nbdfork.server.orders import Orders
from nbdfork.server.pool import PoolSize
from nbdfork.server.reloading import Reload, Reloadable
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.service import Service
from nbdfork.server.signals import STOP_SIGNALS, ignore, meaningless
from nbdfork.server.sockets import Listeners
from nbdfork.server.watchdog import DEFAULT_LIMITS, HangLimits

if TYPE_CHECKING:
    from nbdfork.server.captive import Captive

log = logging.getLogger(__name__)

KILL_SECONDS = 5.0

SHORTAGE_SECONDS = 60.0
"""That there is no memory left for large requests is told no more often than that."""


class Supervisor:
    """A pool of workers and its life.  From its making on, stop signals are recorded.

    *shutdown_limit*: how many seconds workers get, at the end, to finish with their clients.
    *controlled*: by which socket operators are served, if there is one.  *drain_limit*: how many
    seconds clients may stay when nobody is let in any more; 0: any number.  *reloadable*: how
    another program takes over, and *takeover* what has been taken over from one before.
    """

    def __init__(
        self,
        listeners: Listeners,
        size: PoolSize,
        service: Service,
        shutdown_limit: float,
        hang_limits: HangLimits = DEFAULT_LIMITS,
        notifier: Notifier | None = None,
        controlled: ControlSettings | None = None,
        drain_limit: float = 0.0,
        reloadable: Reloadable | None = None,
        takeover: Takeover | None = None,
    ) -> None:
        self._notifier = notifier or Notifier()
        self._listeners = listeners
        self._service = service
        self._shutdown_limit = shutdown_limit
        self._captive: Captive | None = None
        self._stop_requests = 0
        self._may_be_stopped_by_workers = service.sandbox.may_stop
        self._has_refused_to_stop = False
        self._next_shortage = 0.0
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._verbs: dict[int, Callable[[], object]] = dict.fromkeys(STOP_SIGNALS, self.stop)
        self._meaningless = frozenset(meaningless())
        self._verbs[signal.SIGCHLD] = self._reap
        before = None if takeover is None else takeover.message
        self._takeover = takeover
        self.has_taken_over = takeover is None
        self._changes, self._changes_end = _pipe(None if before is None else before.changes)
        self._stacks, self._stacks_end = _pipe(None if before is None else before.stacks)
        self._signals, self._signals_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._changes, self._hear_of_changes)
        self.watch(self._stacks, self._log_stack)
        self.watch(self._signals, self._obey_signals)
        slots = Generation.slots_needed(size, service)
        board = Scoreboard(slots)
        if before is not None:
            board = Scoreboard.take_over(before.board, slots, before.claimed())
        self._board = board

        def generation(number: int, old: OldGeneration | None) -> Generation:
            made = Generation(
                number,
                board,
                listeners,
                size,
                service,
                hang_limits,
                self._changes_end,
                self._stacks_end,
                self._private,
                old,
            )
            self.watch(made.departures, made.hear_of_departures)
            return made

        self._generations = Generations(generation, before)
        self._others = set[int]() if before is None else set(before.others)
        self._drain_limit = drain_limit
        self._draining_until = math.inf
        self.is_draining = False
        self._orders = Orders(self, self._generations, board, controlled)
        self._reload = Reload(
            self, reloadable, self._generations, self._orders, self._notifier, self._others
        )
        self._record_signals()

    def run(self, on_ready: Callable[[], None], captive: "Captive | None" = None) -> None:
        """Run the pool until a signal, or the end of the captive command, stops it.

        *on_ready* is called when workers wait for clients.  Raises `StartupError` if they do
        not get so far.
        """
        gc.collect()
        gc.freeze()  # so that collections in the workers leave the pages they share alone
        self._captive = captive
        try:
            self._start()
            on_ready()
            self._finish_takeover()
            self._notifier.tell_ready()
            while not self._stop_requests and not self._has_drained():
                if not self.is_draining:
                    self._generations.adjust()
                self._generations.watch_for_hangs()
                self._limit_old()
                self._notifier.set_status(self._describe())
                self._wait(self._pause())
        finally:
            if self._takeover is None or self._takeover.is_over:
                self._drain()
            else:
                self._give_up_takeover()

    # -- the tables ---------------------------------------------------------------------

    def watch(self, fd: int, handler: Callable[[], object]) -> None:
        """Call *handler* whenever *fd* is readable, or has reached its end."""
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def on_signal(self, signum: signal.Signals, verb: Callable[[], object]) -> None:
        """Call *verb* when the signal comes."""
        self._verbs[signum] = verb

    def unwatch(self, fd: int) -> None:
        """Leave *fd* alone."""
        del self._handlers[fd]
        self._poll.unregister(fd)

    def end_with(self, fd: int) -> None:
        """Stop when *fd* is readable: a pipe that reaches its end, or a process by its pidfd."""

        def stop() -> None:
            self.unwatch(fd)
            self.stop()

        self.watch(fd, stop)

    def _private(self) -> Iterable[int]:
        """Return the descriptors that are not for workers."""
        closed_there = self._generations.current.departures  # by an object that knows of it
        taken_over: list[int] = []
        if self._takeover is not None and not self._takeover.is_over:
            taken_over = self._takeover.message.descriptors()
        own = self._handlers.keys() - {closed_there}
        return (*own, self._signals_end, *self._generations.private(), *taken_over)

    # -- waiting ------------------------------------------------------------------------

    def _record_signals(self) -> None:
        """Let signals write themselves to a pipe and do nothing else.

        It stays so until the process ends: a second signal must not cut its cleaning up short.
        """
        # First the pipe: a signal that comes when there is only a handler would be lost.
        signal.set_wakeup_fd(self._signals_end, warn_on_full_buffer=False)
        for signum in self._verbs.keys() | self._meaningless:
            signal.signal(signum, lambda *_: None)

    def _wait(self, seconds: float | None) -> None:
        """Wait until something happens, or for some seconds; do what belongs to it."""
        self._notifier.tick()
        pauses = [one for one in (seconds, self._notifier.pause()) if one is not None]
        seconds = min(pauses, default=None)
        for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            if fd in self._handlers:  # an earlier one may have removed it
                self._handlers[fd]()

    def _obey_signals(self) -> None:
        for signum in _empty(self._signals):
            if signum in self._verbs:  # a plugin may have a handler for one of its own
                self._verbs[signum]()
            elif signum in self._meaningless:
                ignore(signum)

    def _hear_of_changes(self) -> None:
        """Take note of what workers say; the loop will look at the scoreboard."""
        heard = _empty(self._changes)
        if FULL in heard:
            self._tell_of_shortage()
        if STOP not in heard or self._stop_requests:
            return
        if self._may_be_stopped_by_workers:
            self.stop()
        elif not self._has_refused_to_stop:  # once is enough: it may never end
            self._has_refused_to_stop = True
            log.warning("a worker asks to stop the server, but its plugin does not say it may")

    def _tell_of_shortage(self) -> None:
        now = time.monotonic()
        if now >= self._next_shortage:
            self._next_shortage = now + SHORTAGE_SECONDS
            log.warning(
                "the data of large requests take %d bytes, as much as they may: others are refused"
                " for the time being; see --memory-budget",
                self._service.memory_budget,
            )

    def _log_stack(self) -> None:
        """Log what a worker said of itself when it was asked where it is."""
        for line in _empty(self._stacks).decode(errors="backslashreplace").splitlines():
            log.error("stack: %s", line)

    # -- the verbs ----------------------------------------------------------------------

    def stop(self) -> None:
        """Let the clients finish and end; if it is said twice, end at once."""
        self._stop_requests += 1

    def _reap(self) -> None:
        """Take note of the children that have ended; stop with the captive command."""
        self._generations.reap(lambda old: self.unwatch(old.departures))
        reap(self._others)
        if self._captive is not None and self._captive.has_ended() and not self._stop_requests:
            self.stop()

    def drain(self) -> None:
        """Let nobody in any more; end when all clients have left, or after the drain limit."""
        if not self.is_draining:
            log.warning("draining: nobody is let in any more, and the server ends with its clients")
            self.is_draining = True
            self._draining_until = time.monotonic() + self._drain_limit
            self._reload.stop()
            self._listeners.close()
            self._generations.current.let_go()

    def _has_drained(self) -> bool:
        if not self.is_draining:
            return False
        is_over = self._drain_limit and time.monotonic() >= self._draining_until
        return bool(is_over) or not self._generations.workers

    def _pause(self) -> float | None:
        """Return after how many seconds there is something to do even if nothing happens."""
        pauses = [self._generations.pause()]
        if self._drain_limit and (self.is_draining or self._generations.old):
            pauses.append(max(0.0, self._draining_until - time.monotonic()))
        return min((pause for pause in pauses if pause is not None), default=None)

    def _limit_old(self) -> None:
        """Tell clients of earlier programs to end, when the drain limit is over."""
        old = self._generations.old
        if old and self._drain_limit and time.monotonic() >= self._draining_until:
            self._generations.stop(old)
            self._draining_until = math.inf

    def _describe(self) -> str:
        clients = self._generations.clients()
        text = f"Serving {clients} client{'' if clients == 1 else 's'}"
        return f"{text}, and lets nobody in any more" if self.is_draining else text

    # -- another program ----------------------------------------------------------------

    def reload(self) -> str:
        """Let another program take over, if it can; return why it cannot, as far as that is known
        now.
        """
        return self._reload.begin()

    def own_descriptors(self) -> list[int]:
        """Return what is of no use to a process that only waits for workers to end."""
        current = self._generations.current
        found = [self._board.fd, *(one.fileno() for one in self._listeners.sockets)]
        found += [*self._private(), *current.descriptors(), current.departures]
        return found if self._orders.listening < 0 else [*found, self._orders.listening]

    def hand_over(self) -> Handover:
        """Return what another program needs to go on, but for what `Reloadable` has."""
        workers = set(self._generations.workers)
        return Handover(
            generation=self._generations.current.number,
            board=self._board.fd,
            slots=self._board.slots,
            listeners=self._listeners.hand_over(),
            generations=self._generations.hand_over(),
            changes=[self._changes, self._changes_end],
            stacks=[self._stacks, self._stacks_end],
            others=[pid for pid in processes.children() if pid not in workers],
            shared=[],
            demands={},
            facts={},
            notify={},
            control=self._orders.listening,
        )

    def _finish_takeover(self) -> None:
        """The workers of this program are ready: those of earlier ones end with their clients."""
        if self._takeover is None:
            return
        self._generations.let_old_go()
        self._draining_until = time.monotonic() + self._drain_limit
        self._takeover.finish()
        while self._generations.old_waits() and not self._stop_requests:
            self._wait(None)  # a client that comes now may still get one of the old workers
        self.has_taken_over = True
        log.warning("reloaded: this is generation %d", self._generations.current.number)

    def _give_up_takeover(self) -> None:
        """Without having taken over: end what is of it, and leave the rest as it is."""
        self._generations.current.stop()
        self._generations.current.kill(KILL_SECONDS)
        self._orders.stop()
        signal.set_wakeup_fd(-1)

    # -- the start and the end ----------------------------------------------------------

    def _start(self) -> None:
        """Fork the first workers and wait until they are ready for clients."""
        self._service.sandbox.hide_others()  # not earlier: the captive command may mount something
        self._orders.start()
        self._generations.adjust()
        while not self._generations.current.has_started() and not self._stop_requests:
            self._wait(None)

    def _drain(self) -> None:
        """Let the workers finish with their clients, then kill those that did not."""
        self._reload.stop()
        self._notifier.tell_stopping()
        self._listeners.close()
        self._generations.stop()
        if self._captive is not None:
            self._captive.tell_to_end()
        deadline = time.monotonic() + self._shutdown_limit
        impatient = max(self._stop_requests, 1) + 1
        while self._generations.workers and self._stop_requests < impatient:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            self._generations.watch_for_hangs()
            pause = self._generations.pause()
            self._wait(remaining if pause is None else min(remaining, pause))
        self._generations.kill(KILL_SECONDS)
        self._close()

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        for signum in STOP_SIGNALS:  # the interpreter, ending, would restore all but ignored ones
            signal.signal(signum, signal.SIG_IGN)
        self._generations.close()
        self._orders.close()
        for fd in (
            *(self._changes, self._changes_end),
            *(self._stacks, self._stacks_end),
            *(self._signals, self._signals_end),
        ):
            os.close(fd)


def _pipe(before: list[int] | None) -> tuple[int, int]:
    """Return both ends of a pipe that does not block: a new one, or a copy of that of *before*."""
    if before is None:
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    reading, writing = map(os.dup, before)
    return reading, writing


def _empty(pipe: int) -> bytes:
    """Return what is in a pipe that does not block."""
    try:
        return os.read(pipe, 65536)
    except BlockingIOError:
        return b""
