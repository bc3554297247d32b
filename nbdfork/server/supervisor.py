"""The supervisor: the mechanism of the pool.

One loop: wait for a signal or for news from a worker, reap, fork, until it is told to stop;
then drain.  Signals only record themselves on a pipe.  It never touches a client's bytes, and
it knows its workers by the scoreboard.  The one fork() of the pool stands here.
"""

import gc
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbdfork.server import processes, worker
from nbdfork.server.errors import StartupError
from nbdfork.server.pool import PoolSize, Throttle
from nbdfork.server.scoreboard import Scoreboard, State
from nbdfork.server.sockets import Listeners

if TYPE_CHECKING:
    from nbdfork.server.captive import Captive

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
KILL_SECONDS = 5.0


class Supervisor:
    """A pool of workers and its life.  From its making on, stop signals are recorded.

    *shutdown_limit*: how many seconds workers get, at the end, to finish with their clients.
    """

    def __init__(
        self,
        listeners: Listeners,
        size: PoolSize,
        service: worker.Service,
        shutdown_limit: float,
    ) -> None:
        self._listeners = listeners
        self._size = size
        self._service = service
        self._shutdown_limit = shutdown_limit
        self._captive: Captive | None = None
        self._board = Scoreboard(size.max_clients)
        self._workers: dict[int, int] = {}  # their slots, by pid
        self._throttle = Throttle()
        self._stop_requests = 0
        self._at_limit = False
        self._leash, self._leash_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._news, self._news_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals, self._signals_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._news, select.POLLIN)
        self._poll.register(self._signals, select.POLLIN)
        self._record_signals()

    def run(
        self,
        on_ready: Callable[[], None],
        captive: "Captive | None" = None,
        stop_at_end_of: int | None = None,
    ) -> None:
        """Run the pool until a signal, the end of the captive command, or that of a pipe stops it.

        *on_ready* is called when workers wait for clients.  Raises `StartupError` if they do
        not get so far.
        """
        gc.collect()
        gc.freeze()  # so that collections in the workers leave the pages they share alone
        self._captive = captive
        if stop_at_end_of is not None:
            self._poll.register(stop_at_end_of, select.POLLIN)
        try:
            self._start()
            on_ready()
            while not self._is_stopping():
                self._adjust()
                self._wait(self._throttle.remaining(time.monotonic()) or None)
                self._reap()
        finally:
            self._drain()

    # -- waiting ------------------------------------------------------------------------

    def _record_signals(self) -> None:
        """Let signals write themselves to a pipe and do nothing else.

        It stays so until the process ends: a second signal must not cut its cleaning up short.
        """
        # First the pipe: a signal that comes when there is only a handler would be lost.
        signal.set_wakeup_fd(self._signals_end, warn_on_full_buffer=False)
        for signum in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(signum, lambda *_: None)

    def _wait(self, seconds: float | None) -> None:
        """Wait for a signal or for news, and take note of stop signals."""
        ready = self._poll.poll(None if seconds is None else seconds * 1000)
        for fd, _ in ready:
            recorded = os.read(fd, 65536)
            if fd == self._signals:
                self._stop_requests += sum(signum in STOP_SIGNALS for signum in recorded)
            elif not recorded:  # the pipe of *stop_at_end_of*
                self._stop_requests += 1
                self._poll.unregister(fd)

    def _is_stopping(self) -> bool:
        if self._captive is not None and self._captive.has_ended():
            return True
        return self._stop_requests > 0

    # -- forking and reaping ------------------------------------------------------------

    def _start(self) -> None:
        """Fork the first workers and wait until they are ready for clients."""
        self._adjust()
        while True:
            self._check_boot()
            if not self._board.count(State.STARTING) or self._is_stopping():
                return
            self._wait(None)

    def _check_boot(self) -> None:
        for slot in self._workers.values():
            if self._board.state(slot) is State.FAILED:
                raise StartupError(f"a worker cannot start: {self._board.note(slot)}")
        if self._reap():
            raise StartupError("a worker died while it was starting")

    def _adjust(self) -> None:
        """Fork or retire workers, so that there are as many as there should be."""
        if self._throttle.remaining(time.monotonic()):
            return
        spare = self._board.count(State.STARTING, State.IDLE)
        for _ in range(self._size.to_fork(spare, len(self._workers))):
            self._fork()
        surplus = self._size.to_retire(spare)
        if surplus:
            os.write(self._leash_end, bytes(surplus))
        if self._size == PoolSize.one():
            return  # that it is busy is nothing to warn of
        at_limit = self._board.count(State.SERVING) == self._size.max_clients
        if at_limit and not self._at_limit:
            log.warning("all %d clients are taken: others have to wait", self._size.max_clients)
        self._at_limit = at_limit

    def _fork(self) -> None:
        slot = self._board.claim()
        if slot is None:
            return
        place = worker.Place(
            slot,
            self._board,
            self._listeners.sockets,
            self._leash,
            self._news_end,
            os.getpid(),
        )
        # A signal that reached the child before it has handlers of its own would be recorded
        # on the pipe of the supervisor, which would think it was meant.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
        try:
            sys.stdout.flush()  # or what is in its buffer would be printed by both
            pid = os.fork()
            if pid == 0:
                self._become_worker(place)
        except OSError as error:
            self._board.free(slot)
            pause = self._throttle.died_unused(time.monotonic())
            log.error("cannot fork a worker (next attempt in %.1f s): %s", pause, error)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
        self._workers[pid] = slot

    def _become_worker(self, place: worker.Place) -> None:
        """In the child: never return to the supervisor's code."""
        status = worker.EXIT_FAILED
        try:
            for fd in (self._leash_end, self._news, self._signals, self._signals_end):
                os.close(fd)
            status = worker.run(place, self._service)
            sys.stdout.flush()
        finally:
            logging.shutdown()
            os._exit(status)

    def _reap(self) -> int:
        """Free the slots of workers that have died; return how many of them failed unused."""
        dead = list(processes.reap(self._workers.keys()))
        return sum(self._bury(pid, self._workers.pop(pid), status) for pid, status in dead)

    def _bury(self, pid: int, slot: int, status: int | None) -> bool:
        """Free the slot of a dead worker; return whether it failed before it served anyone."""
        note, served = self._board.note(slot), self._board.has_served(slot)
        self._board.free(slot)
        # A worker that fails has said why; any other end was not its own doing.
        if status not in (None, 0, worker.EXIT_FAILED) and not self._is_stopping():
            what = f"serving {note}" if note else "without a client"
            how = (
                f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
            )
            log.warning("worker %d, %s, %s", pid, what, how)
        if served:
            self._throttle.served()
        elif status:
            pause = self._throttle.died_unused(time.monotonic())
            log.warning("a worker died unused; next fork in %.1f s", pause)
            return True
        return False

    # -- the end ------------------------------------------------------------------------

    def _drain(self) -> None:
        """Let the workers finish with their clients, then kill those that did not."""
        self._listeners.close()
        os.close(self._leash_end)
        if self._captive is not None:
            self._captive.tell_to_end()
        for pid in self._workers:
            processes.send(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._shutdown_limit
        impatient = max(self._stop_requests, 1) + 1
        while self._workers and self._stop_requests < impatient:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            self._wait(remaining)
            self._reap()
        for pid, slot in self._workers.items():
            log.warning("killing worker %d, serving %s", pid, self._board.note(slot))
            processes.send(pid, signal.SIGKILL)
        processes.wait(self._workers.keys(), KILL_SECONDS)
        signal.set_wakeup_fd(-1)
        for signum in STOP_SIGNALS:  # the interpreter, ending, would restore all but ignored ones
            signal.signal(signum, signal.SIG_IGN)
        for fd in (self._leash, self._news, self._news_end, self._signals, self._signals_end):
            os.close(fd)
