"""A worker that serves several clients at the same time, each in a thread of its own.

If a client leaves while a plugin is at work for it, its thread cannot be ended; but another client
gets its place.
"""

import logging
import select
import socket
import threading

from nbdfork.server.admission import Door
from nbdfork.server.departures import GRACE_SECONDS, Departures, Sign
from nbdfork.server.entrance import Entrance
from nbdfork.server.inheritance import Inheritance
from nbdfork.server.service import Service, admit, serve
from nbdfork.server.slots import Slot, State
from nbdfork.server.stopper import Stopper

log = logging.getLogger(__name__)

_SIGNAL_CHECK_SECONDS = 1.0
"""How long the main thread, which handles signals, waits for another thread in one go: a signal
that comes just before it falls asleep does not wake it."""


class Threads:
    """The threads of one worker.  Each client has one of the worker's slots."""

    def __init__(self, inherited: Inheritance, service: Service, stopper: Stopper) -> None:
        self._inherited = inherited
        self._service = service
        self._stopper = stopper
        self._door = Door(service.admission, inherited.board)
        self._own_slot = inherited.slot(0)
        self._free = list(range(1, len(inherited.slots)))
        self._available = threading.Semaphore(len(self._free))
        self._reporting = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._departures: Departures[int] = Departures()
        self._places: dict[int, Slot] = {}  # where clients are served, by their slots
        self._leaving = threading.Lock()  # holds these two, and the places
        self._left_behind = 0  # threads whose places have been given to others; so many at most:
        self._most = service.clients_at_once

    def run(self) -> None:
        """Serve clients until told to end; return when the last of them is gone."""
        self._report()
        try:
            threading.Thread(target=self._look_for_departures, daemon=True).start()
        except RuntimeError as error:  # the system has no more of them
            log.warning("clients that leave while a plugin works are not noticed: %s", error)
        try:
            with Entrance(self._inherited, self._stopper, has_clients=True) as entrance:
                self._wait_for_one()
                while (client := entrance.accept()) is not None:
                    self._begin(client)
                    self._wait_for_one()
        finally:
            for listener in self._inherited.listeners:  # or clients would wait there in vain
                listener.close()
            for thread in tuple(self._threads):
                while thread.is_alive():
                    thread.join(_SIGNAL_CHECK_SECONDS)

    def _wait_for_one(self) -> None:
        """Wait until another client could be served."""
        if not self._available.acquire(blocking=False):
            most = self._service.clients_at_once
            log.warning("all %d clients are taken: others have to wait", most)
            while not self._available.acquire(timeout=_SIGNAL_CHECK_SECONDS):
                pass

    def _begin(self, client: socket.socket) -> None:
        """Serve *client* in the thread that was waited for."""
        thread = threading.Thread(target=self._serve, args=(client,))
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more of them
            log.error("cannot serve a client: %s", error)
            client.close()
            self._threads.discard(thread)
            self._available.release()

    def _serve(self, client: socket.socket) -> None:
        index = self._free.pop()
        slot = self._inherited.slot(index)
        try:
            admitted = admit(client, self._service, self._door, slot)
            if admitted is not None:
                with self._leaving:
                    self._places[index] = slot
                    line = self._departures.add(index)
                serve(*admitted, self._service, self._stopper, slot, self._report, line)
        except BaseException:
            log.exception("a client's thread failed")
        finally:
            with self._leaving:
                if slot.is_detached:
                    self._left_behind -= 1
                else:
                    self._give_back(index, slot)
            self._threads.discard(threading.current_thread())

    def _give_back(self, index: int, slot: Slot) -> None:
        """Free the place of a client for another."""
        self._places.pop(index, None)
        self._departures.remove(index)
        with self._reporting:
            slot.merge_into(self._own_slot)
            slot.set(State.FREE)
            slot.detach()  # a thread that is left behind goes on writing
        self._report()
        self._free.append(index)
        self._available.release()

    # -- clients that leave -------------------------------------------------------------

    def _look_for_departures(self) -> None:
        """In a thread of its own, until the process ends."""
        poll = select.poll()
        poll.register(self._departures, select.POLLIN)
        while True:
            with self._leaving:
                pause = self._departures.pause()
            poll.poll(None if pause is None else pause * 1000)
            with self._leaving:
                self._departures.hear()
                for index, _, sign in list(self._departures.look()):
                    if sign is not Sign.HERE:
                        self._leave_behind(index, self._places[index])

    def _leave_behind(self, index: int, slot: Slot) -> None:
        """Give the place of a client that has left to others, if the plugin is busy with it."""
        entry = slot.entry()
        if not entry.has_been_busy(GRACE_SECONDS) or self._left_behind >= self._most:
            return
        log.warning("client %s has left, but the plugin is still busy with it", entry.client)
        self._left_behind += 1
        self._give_back(index, slot)

    def _report(self) -> None:
        """Say what the clients' slots say, taken together, in the worker's own."""
        with self._reporting:
            board = self._inherited.board
            states = {board.state(index) for index in self._inherited.slots[1:]}
            self._own_slot.set(State.SERVING if State.SERVING in states else State.IDLE)
            self._inherited.announce()
