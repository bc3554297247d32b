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
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nbdfork.server.control import Control
from nbdfork.server.control import Settings as ControlSettings
from nbdfork.server.generation import Generation
from nbdfork.server.inheritance import FULL, STOP
from nbdfork.server.notify import Notifier
from nbdfork.server.pool import PoolSize
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

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
"""How much may be logged."""


class Supervisor:
    """A pool of workers and its life.  From its making on, stop signals are recorded.

    *shutdown_limit*: how many seconds workers get, at the end, to finish with their clients.
    *controlled*: by which socket operators are served, if there is one.  *drain_limit*: how many
    seconds clients may stay when nobody is let in any more; 0: any number.
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
        self._changes, self._changes_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stacks, self._stacks_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals, self._signals_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._changes, self._hear_of_changes)
        self.watch(self._stacks, self._log_stack)
        self.watch(self._signals, self._obey_signals)
        board = Scoreboard(Generation.slots_needed(size, service))
        self._generation = Generation(
            1,
            board,
            listeners,
            size,
            service,
            hang_limits,
            self._changes_end,
            self._stacks_end,
            self._private,
        )
        self.watch(self._generation.departures, self._generation.hear_of_departures)
        self._drain_limit = drain_limit
        self._draining_until = math.inf
        self._is_draining = False
        self._orders: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any] | None]] = {
            "state": self._tell_state,
            "drain": self._order_drain,
            "disconnect": self._order_disconnect,
            "log-level": self._order_log_level,
        }
        self._control: Control | None = None
        if controlled is not None:
            self._control = Control(controlled, board, self._carry_out)
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
            self._notifier.tell_ready()
            while not self._stop_requests and not self._has_drained():
                if not self._is_draining:
                    self._generation.adjust()
                self._generation.watch_for_hangs()
                self._notifier.set_status(self._describe())
                pause = self._generation.pause()
                if self._is_draining and self._drain_limit:
                    left = max(0.0, self._draining_until - time.monotonic())
                    pause = left if pause is None else min(pause, left)
                self._wait(pause)
        finally:
            self._drain()

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
        closed_there = self._generation.departures  # by an object that knows of it
        return (*(self._handlers.keys() - {closed_there}), self._signals_end)

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
        self._generation.reap()
        if self._captive is not None and self._captive.has_ended() and not self._stop_requests:
            self.stop()

    def drain(self) -> None:
        """Let nobody in any more; end when all clients have left, or after the drain limit."""
        if not self._is_draining:
            log.warning("draining: nobody is let in any more, and the server ends with its clients")
            self._is_draining = True
            self._draining_until = time.monotonic() + self._drain_limit
            self._listeners.close()
            self._generation.let_go()

    def _has_drained(self) -> bool:
        if not self._is_draining:
            return False
        is_over = self._drain_limit and time.monotonic() >= self._draining_until
        return bool(is_over) or not self._generation.workers

    def _describe(self) -> str:
        clients = self._generation.clients()
        text = f"Serving {clients} client{'' if clients == 1 else 's'}"
        return f"{text}, and lets nobody in any more" if self._is_draining else text

    # -- orders from the control socket -------------------------------------------------

    def _start_control(self) -> None:
        if self._control is not None:
            self.watch(self._control.start(), self._hear_of_control)

    def _hear_of_control(self) -> None:
        assert self._control is not None
        fd = self._control.fileno()
        if not self._control.hear():
            self.unwatch(fd)
            self._control.reap()
            if not self._stop_requests:
                log.error("the process of the control socket has ended: another one is started")
                self._start_control()

    def _carry_out(self, order: Mapping[str, Any]) -> Mapping[str, Any] | None:
        verb = self._orders.get(str(order.get("verb")))
        return {"error": "there is no such order"} if verb is None else verb(order)

    def _tell_state(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"generation": self._generation.number, "draining": self._is_draining}

    def _order_drain(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        self.drain()
        return {"clients": self._generation.clients()}

    def _order_disconnect(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        identity = str(order.get("id"))
        if not identity.isdecimal():
            return {"error": f"there is no client {identity}"}
        error = self._generation.disconnect(int(identity))
        return {"error": error} if error else {}

    def _order_log_level(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        level = LEVELS.get(str(order.get("level")))
        if level is None:
            return {"error": f"a level is one of: {', '.join(LEVELS)}"}
        logging.getLogger().setLevel(level)
        self._generation.renew_spares()
        return {}

    # -- the start and the end ----------------------------------------------------------

    def _start(self) -> None:
        """Fork the first workers and wait until they are ready for clients."""
        self._service.sandbox.hide_others()  # not earlier: the captive command may mount something
        self._start_control()
        self._generation.adjust()
        while not self._generation.has_started() and not self._stop_requests:
            self._wait(None)

    def _drain(self) -> None:
        """Let the workers finish with their clients, then kill those that did not."""
        self._notifier.tell_stopping()
        self._listeners.close()
        self._generation.stop()
        if self._captive is not None:
            self._captive.tell_to_end()
        deadline = time.monotonic() + self._shutdown_limit
        impatient = max(self._stop_requests, 1) + 1
        while self._generation.workers and self._stop_requests < impatient:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            self._generation.watch_for_hangs()
            pause = self._generation.pause()
            self._wait(remaining if pause is None else min(remaining, pause))
        self._generation.kill(KILL_SECONDS)
        self._close()

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        for signum in STOP_SIGNALS:  # the interpreter, ending, would restore all but ignored ones
            signal.signal(signum, signal.SIG_IGN)
        self._generation.close()
        if self._control is not None:
            self._control.close()
        for fd in (
            *(self._changes, self._changes_end),
            *(self._stacks, self._stacks_end),
            *(self._signals, self._signals_end),
        ):
            os.close(fd)


def _empty(pipe: int) -> bytes:
    """Return what is in a pipe that does not block."""
    try:
        return os.read(pipe, 65536)
    except BlockingIOError:
        return b""
