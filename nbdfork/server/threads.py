"""A worker that serves several clients at the same time, each in a thread of its own."""

import logging
import socket
import threading

from nbdfork.server.admission import Door
from nbdfork.server.entrance import Entrance
from nbdfork.server.inheritance import Inheritance
from nbdfork.server.scoreboard import State
from nbdfork.server.service import Service, admit, serve
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

    def run(self) -> None:
        """Serve clients until told to end; return when the last of them is gone."""
        self._report()
        try:
            with Entrance(self._inherited, self._stopper, has_clients=True) as entrance:
                self._wait_for_one()
                while (client := entrance.accept()) is not None:
                    self._begin(client)
                    self._wait_for_one()
        finally:
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
                serve(*admitted, self._service, self._stopper, slot, self._report)
        except BaseException:
            log.exception("a client's thread failed")
        finally:
            with self._reporting:
                slot.merge_into(self._own_slot)
                slot.set(State.FREE)
            self._report()
            self._free.append(index)
            self._threads.discard(threading.current_thread())
            self._available.release()

    def _report(self) -> None:
        """Say what the clients' slots say, taken together, in the worker's own."""
        with self._reporting:
            board = self._inherited.board
            states = {board.state(index) for index in self._inherited.slots[1:]}
            self._own_slot.set(State.SERVING if State.SERVING in states else State.IDLE)
            self._inherited.announce()
