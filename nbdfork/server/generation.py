"""A generation: the workers that serve one and the same program, and what belongs to them.

It forks and retires them, so that there are as many as there should be, and knows which of them
it has told to end.  The one fork() of the pool stands here.
"""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, KeysView

from nbdfork.server import processes, worker
from nbdfork.server.departures import GRACE_SECONDS, Departures, Sign
from nbdfork.server.errors import StartupError
from nbdfork.server.handover import OldGeneration, OldWorker
from nbdfork.server.inheritance import STACK_SIGNAL, Inheritance
from nbdfork.server.pool import PoolSize, Throttle
from nbdfork.server.room import SILENCE_SECONDS, Room
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.service import Service
from nbdfork.server.slots import Entry, State
from nbdfork.server.sockets import Listeners
from nbdfork.server.watchdog import HangLimits, Watchdog

log = logging.getLogger(__name__)

_WAITING = frozenset({State.STARTING, State.IDLE})
_BOOTING = frozenset({State.STARTING, State.FAILED})
_NEXT = 0
"""In place of a pid: the worker that is forked now."""

_ORDERLY = frozenset({State.ENDED, State.FAILED})


class Generation:
    """A pool of workers.

    *changes* is the pipe by which workers tell the supervisor that the scoreboard has changed;
    *stacks* is the one for what `STACK_SIGNAL` makes them say.  *private* returns the descriptors
    of the supervisor that a worker must not have.
    """

    def __init__(
        self,
        number: int,
        board: Scoreboard,
        listeners: Listeners,
        size: PoolSize,
        service: Service,
        hang_limits: HangLimits,
        changes: int,
        stacks: int,
        private: Callable[[], Iterable[int]],
        old: OldGeneration | None = None,
    ) -> None:
        """*old*: these workers of an earlier program, and no others; descriptors are copied."""
        self.number = number
        self._board = board
        self._listeners = listeners
        self._size = size
        self._service = service
        self._changes = changes
        self._stacks = stacks
        self._private = private
        if old is None:
            self._leash, self._leash_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        else:
            self._leash, self._leash_end = -1, os.dup(old.leash_end) if old.leash_end >= 0 else -1
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._workers: dict[int, range] = {}  # their slots, by pid
        self._retired: set[int] = set()  # those of them that were told to end
        self._has_started = False
        self._failure = ""  # of the last worker that failed before it served anyone
        self._room = Room()
        self._departures: Departures[int] = Departures()  # by pid
        self._heirs = 0  # of workers that were killed, to be forked
        self._given_up: set[int] = set()  # those whose clients have left, and that were killed
        self._told_of: set[int] = set()  # those of them that may not be killed
        self._ended_at = math.inf
        self._at_limit = False
        self._throttle = Throttle()
        self._watchdog = Watchdog(board, hang_limits)
        for one in () if old is None else old.workers:
            self._workers[one.pid] = range(one.first, one.first + one.slots)
            if one.line >= 0:
                self._departures.add(one.pid, one.line)

    @staticmethod
    def slots_needed(size: PoolSize, service: Service) -> int:
        """Return how many slots of the scoreboard a generation can fill."""
        return size.max_clients * _slots_per_worker(service)

    def descriptors(self) -> list[int]:
        """Return those that no worker of a later generation may have."""
        lines = map(self._departures.descriptor, self._workers)
        return [fd for fd in (self._leash_end, self._bell, *lines) if fd >= 0]

    @property
    def _is_ending(self) -> bool:
        return self._ended_at < math.inf

    @property
    def workers(self) -> KeysView[int]:
        """The processes that have not been reaped yet."""
        return self._workers.keys()

    def clients(self) -> int:
        """Return how many clients are served."""
        states = [self._board.state(slot) for slots in self._workers.values() for slot in slots]
        own = [self._board.state(slots[0]) for slots in self._workers.values()]
        several = self._service.clients_at_once > 1  # then a worker's own slot is nobody's
        return states.count(State.SERVING) - (own.count(State.SERVING) if several else 0)

    # -- as many as there should be -----------------------------------------------------

    def hand_over(self) -> OldGeneration:
        """Return what another program needs to go on with these workers."""
        workers = [
            OldWorker(pid, slots.start, len(slots), self._departures.descriptor(pid))
            for pid, slots in self._workers.items()
        ]
        return OldGeneration(self.number, self._leash_end, workers)

    def adjust(self, others: int = 0) -> None:
        """Fork or retire workers, so that they are enough with *others* of earlier generations."""
        if self._throttle.remaining(time.monotonic()):
            return
        spares = self.spares()
        for _ in range(self._size.to_fork(len(spares), len(self._workers) + others, self._heirs)):
            self._fork()
        self._heirs = 0
        self._retire(spares[: self._size.to_retire(len(spares))])
        self._watch_limit()

    def pause(self) -> float | None:
        """Return after how many seconds there is something to do even if nothing happens."""
        throttle = self._throttle.remaining(time.monotonic()) or None
        room = SILENCE_SECONDS / 4 if self._at_limit else None
        pauses = (throttle, self._watchdog.pause(), room, self._departures.pause())
        return min((pause for pause in pauses if pause is not None), default=None)

    def spares(self) -> list[int]:
        """Return the workers that wait for clients and have not been told to end."""
        return [
            pid
            for pid, slots in self._workers.items()
            if self._board.state(slots[0]) in _WAITING and pid not in self._retired
        ]

    def _retire(self, pids: list[int]) -> None:
        """Tell workers to end as soon as they have no client, which may come in this moment."""
        for pid in pids:
            self._board.retire(self._workers[pid][0])
        self._retired.update(pids)
        if pids:
            os.eventfd_write(self._bell, 1)

    def _watch_limit(self) -> None:
        if self._size == PoolSize.one():
            return  # that it is busy is nothing to warn of
        serving = [pid for pid, slots in self._workers.items() if self._is_serving(slots)]
        at_limit = len(serving) == self._size.max_clients
        if at_limit and not self._at_limit:
            log.warning("all %d clients are taken: others have to wait", self._size.max_clients)
        self._at_limit = at_limit
        if at_limit and self._listeners.has_waiting():
            self._make_room(serving)

    def _is_serving(self, slots: range) -> bool:
        return self._board.state(slots[0]) is State.SERVING

    def _make_room(self, serving: Iterable[int]) -> None:
        """Send clients away that only take the place of others."""
        for pid in serving:
            entry = self._board.entry(self._workers[pid][0])
            if reason := self._room.reason(pid, entry, time.time()):
                log.info("client %s is sent away: %s, and others wait", entry.client, reason)
                processes.send(pid, signal.SIGTERM)

    # -- forking ------------------------------------------------------------------------

    def _fork(self) -> None:
        slots = self._board.claim(self.number, _slots_per_worker(self._service))
        if slots is None:
            return
        try:
            pid = self._fork_for(slots)
        except (OSError, MemoryError) as error:  # processes, memory: there may be more later
            self._board.free(slots)
            self._departures.remove(_NEXT)
            pause = self._throttle.died_unused(time.monotonic())
            log.error("cannot fork a worker (next attempt in %.1f s): %s", pause, error)
        else:
            self._workers[pid] = slots
            self._departures.rename(_NEXT, to=pid)

    def _fork_for(self, slots: range) -> int:
        """Fork a worker for *slots* and return its pid.  Raises OSError or MemoryError."""
        memory = self._board.share(slots)
        several = self._service.clients_at_once > 1  # each has a line that the worker has made
        line = None if several else self._departures.add(_NEXT)
        inherited = Inheritance(
            slots,
            self._board,
            memory,
            self._listeners.sockets,
            self._leash,
            self._bell,
            self._changes,
            self._stacks,
            os.getpid(),
            line,
            self._service.memory_budget,
        )
        self._service.sandbox.prepare()
        # A signal that reached the child before it has handlers of its own would be recorded
        # on the pipe of the supervisor, which would think it was meant.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            sys.stdout.flush()  # or what is in its buffer would be printed by both
            pid = os.fork()
            if pid == 0:
                self._become_worker(inherited)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            memory.close()  # this process has the whole board

    def _become_worker(self, inherited: Inheritance) -> None:
        """In the child: never return to the supervisor's code."""
        status = worker.EXIT_FAILED
        try:
            for fd in (self._leash_end, self._board.fd, *self._private()):
                os.close(fd)
            self._departures.close(but=_NEXT)
            status = worker.run(inherited, self._service)
            sys.stdout.flush()
        finally:
            logging.shutdown()
            os._exit(status)

    def disconnect(self, pid: int) -> str:
        """Tell a worker to finish with its client and end; return why not, if it cannot."""
        if pid not in self._workers or self._board.state(self._workers[pid][0]) in _WAITING:
            return f"there is no client {pid}"
        if self._service.clients_at_once > 1:
            return "the worker serves several clients, and ends only with all of them"
        log.warning("client %s is disconnected", self._board.entry(self._workers[pid][0]).client)
        processes.send(pid, signal.SIGTERM)
        return ""

    def renew_spares(self) -> None:
        """Replace the workers that wait: they would go on as they were forked."""
        self._retire(self.spares())

    # -- reaping ------------------------------------------------------------------------

    def reap(self) -> None:
        """Free the slots of workers that have ended."""
        for pid, status in list(processes.reap(self._workers.keys())):
            self._has_ended(pid, status)

    def _has_ended(self, pid: int, status: int | None) -> None:
        """Free the slots of a reaped worker, and say so if its end was not in order."""
        slots = self._workers.pop(pid)
        self._retired.discard(pid)
        self._room.forget(pid)
        self._departures.remove(pid)
        entry = self._board.entry(slots[0])
        who = f"worker {pid}, {self._occupation(slots)}"
        has_served = any(self._board.entry(slot).counters.clients for slot in slots)
        self._board.free(slots)
        was_killed_by_us = pid in self._given_up or (self._is_ending and status == -signal.SIGKILL)
        self._given_up.discard(pid)
        if entry.state not in _ORDERLY and not was_killed_by_us:
            log.warning("%s, %s", who, processes.how_it_ended(status))
        if has_served:
            self._throttle.served()
            self._heirs += entry.state not in _ORDERLY
        elif status or entry.state not in _ORDERLY:
            pause = self._throttle.died_unused(time.monotonic())
            log.warning("a worker died unused; next fork in %.1f s", pause)
            reason = f"a worker cannot start: {entry.reason}" if entry.reason else ""
            self._failure = reason or "a worker died while it was starting"
            if self._has_started and reason:
                log.error("%s", reason)
            if not self._is_ending:
                self._listeners.renew()

    def _occupation(self, slots: range) -> str:
        """Return what the worker of *slots* is doing, for people."""
        clients = self._board.clients(slots)
        return f"serving {clients}" if clients else "without a client"

    # -- hangs --------------------------------------------------------------------------

    @property
    def departures(self) -> int:
        """A descriptor that is readable when `hear_of_departures` is to be called."""
        return self._departures.fileno()

    def hear_of_departures(self) -> None:
        """Take note of clients that have left."""
        self._departures.hear()

    def watch_for_hangs(self) -> None:
        """Warn of workers whose plugins hang, or kill them, and those whose clients have left."""
        for pid, since, sign in self._departures.look():
            if sign is Sign.HERE:
                self._told_of.discard(pid)
                continue
            entry = self._board.entry(self._workers[pid][0])
            if entry.has_been_busy(GRACE_SECONDS):
                self._give_up(pid, entry, since, sign)
        for pid, seconds, is_fatal in self._watchdog.look(self._workers):
            who = f"worker {pid}, {self._occupation(self._workers[pid])}"
            what = "killed" if is_fatal else "where it is follows"
            log.error("%s, has been busy for %.0f seconds: %s", who, seconds, what)
            if is_fatal:
                processes.kill(pid)
            else:
                processes.send(pid, STACK_SIGNAL)

    def _give_up(self, pid: int, entry: Entry, since: float, sign: Sign) -> None:
        """Kill a worker whose plugin is still at work for a client that has left.

        One that only sends nothing more may wait for its answer, so it is left alone until its
        place is needed, or the server ends; the end of the server looks the same, so it must have
        been known before.
        """
        if self._is_ending:
            is_needed = since < self._ended_at
        else:
            is_needed = self._at_limit and self._listeners.has_waiting()
        if sign is not Sign.GONE and not is_needed:
            return
        if self._service.one_process:
            if pid not in self._told_of:
                log.warning(
                    "client %s has left, but the plugin is still busy with it", entry.client
                )
            self._told_of.add(pid)
            return
        log.info(
            "client %s has left: worker %d is killed, which is busy with it", entry.client, pid
        )
        self._given_up.add(pid)
        processes.kill(pid)

    # -- the start and the end ----------------------------------------------------------

    def has_started(self) -> bool:
        """Return whether all workers wait for clients, or have some.

        Raises `StartupError` if one of them failed.
        """
        self.reap()
        if self._failure:
            raise StartupError(self._failure)
        states = [self._board.state(slots[0]) for slots in self._workers.values()]
        self._has_started = not _BOOTING.intersection(states)
        return self._has_started

    def let_go(self) -> None:
        """Let workers end as soon as they have no client; none is forked any more."""
        if self._leash_end >= 0:
            os.close(self._leash_end)
            self._leash_end = -1

    def stop(self) -> None:
        """Tell all workers to finish with their clients and end."""
        self.let_go()
        self._ended_at = time.monotonic()
        for pid in self._workers:
            processes.send(pid, signal.SIGTERM)

    def kill(self, seconds: float) -> None:
        """Kill the workers that are left, and wait for them to be gone, up to *seconds*."""
        for pid, slots in self._workers.items():
            log.warning("killing worker %d, %s", pid, self._occupation(slots))
            processes.kill(pid)
        processes.wait(self._workers.keys(), seconds)

    def close(self) -> None:
        """Give back the descriptors."""
        self.let_go()
        if self._leash >= 0:
            os.close(self._leash)
        os.close(self._bell)
        self._departures.close()


def _slots_per_worker(service: Service) -> int:
    """Return how many slots a worker has: its own, and one for each client of several at once."""
    return 1 + service.clients_at_once if service.clients_at_once > 1 else 1
