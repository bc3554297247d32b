"""The request loop for disks that wait: several requests of one client at the same time.

Each thread receives a request, lets another thread receive the next one, and carries its own
out: no request changes hands.  Waiting for a network releases the interpreter's lock, so the
threads do not stand in each other's way; for a disk that does not wait they would only cost.
The channel they share is here, too.
"""

import logging
import threading
import time

from nbdfork.backend import client
from nbdfork.protocol import wire
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import CutShort, Disconnected
from nbdfork.protocol.meter import Meter
from nbdfork.protocol.stream import Stream
from nbdfork.protocol.transmission import MAX_PAYLOAD, Payload, Session, Transmission
from nbdfork.types import Buffer

log = logging.getLogger(__name__)

SIGNAL_CHECK_SECONDS = 1.0
"""How long the main thread, which handles signals, waits for another thread in one go: a signal
that comes just before it falls asleep does not wake it."""


MOST_HELD = MAX_PAYLOAD
"""How many bytes the requests of one client that are under way may read and write together.  A
client that does not take its replies keeps no more of them in memory, however many threads it has.
"""

_WITH_DATA = (wire.CMD_READ, wire.CMD_WRITE)


class SharedChannel(Channel):
    """A channel whose replies come from several threads: each leaves at once, and whole.

    Those of the thread *alone*, if there is one, leave in batches as usual.
    """

    alone: int | None = None

    def __init__(self, stream: Stream, spins: bool = False) -> None:
        super().__init__(stream, spins)
        self._lock = threading.RLock()
        self._is_broken = False  # a reply was sent in part: nothing may follow it

    def put(self, message: bytes) -> None:
        with self._lock:
            super().put(message)
            self._flush_reply()

    def put_with_data(self, header: bytes, data: Buffer, offset: int = 0) -> None:
        with self._lock:
            super().put_with_data(header, data, offset)
            self._flush_reply()

    def _flush_reply(self) -> None:
        if threading.get_ident() != self.alone:
            self.flush()

    def _may_spin(self) -> bool:
        return self.alone is not None and super()._may_spin()

    def flush(self) -> None:
        with self._lock:
            if self._is_broken:
                raise CutShort("an earlier reply could not be sent")
            try:
                super().flush()
            except Disconnected:
                self._is_broken = True
                raise


class _Ended(Exception):
    """Another thread has seen the end of the connection."""


class ParallelTransmission(Transmission):
    """The transmission phase of a client that has up to *threads* requests carried out at once.

    Replies come in any order, as the protocol allows.  A FLUSH covers all writes that were
    answered before it came, as it must; it does not wait for those under way.
    """

    def __init__(
        self, channel: SharedChannel, session: Session, meter: Meter, threads: int
    ) -> None:
        super().__init__(channel, session, meter)
        self._begin_batch = lambda since: None  # each request is a batch of its own: see `_begin`
        self._limit = threads
        self._receiving = threading.Lock()  # held by the thread that receives
        self._threads: list[threading.Thread] = []
        self._idle: list[None] = []  # one for each thread that waits to receive
        self._counting = threading.Lock()
        self._under_way: list[int] = []  # when they began, the oldest first
        self._held = 0  # bytes of requests under way
        self._held_less = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None

    def serve(self) -> None:
        self._ended = False
        self._serve_with_others(client.serving())
        for thread in self._threads:
            while thread.is_alive():
                thread.join(SIGNAL_CHECK_SECONDS)
        self._threads.clear()
        if self._error is not None:
            raise self._error

    def _serve_with_others(self, served: client.Client | None) -> None:
        """Receive and carry out requests in this thread until the connection ends."""
        client.set_serving(served)
        try:
            self._wait_to_receive()
            super().serve()
        except _Ended:
            pass
        except BaseException as error:
            self._note(error)
        finally:
            self._ended = True
            self._receiving.release()

    def _note(self, error: BaseException) -> None:
        """Keep the gravest error of all threads: one of them may cause others."""
        with self._counting:
            if self._error is None or _gravity(error) > _gravity(self._error):
                self._error = error

    def _wait_to_receive(self) -> None:
        self._idle.append(None)
        is_main = threading.current_thread() is threading.main_thread()
        while not self._receiving.acquire(timeout=SIGNAL_CHECK_SECONDS if is_main else -1):
            pass
        self._idle.pop()
        if self._ended:
            raise _Ended

    def _answer(
        self,
        flags: int,
        command: int,
        cookie: bytes,
        offset: int,
        length: int,
        payload: Payload,
    ) -> None:
        """Let another thread receive while this one carries out the request."""
        if payload is not None and payload.obj is self._channel.buffer:
            payload = memoryview(bytes(payload))  # the next request will be received there
        if not self._idle and len(self._threads) < self._limit - 1:
            self._add_thread()
        held = length if command in _WITH_DATA else 0
        self._reserve(held)  # until there is room, nothing more is received
        self._receiving.release()
        try:
            began = self._begin()
            super()._answer(flags, command, cookie, offset, length, payload)
            self._finish(began)
        except BaseException as error:  # the client has gone; or a script ends the interpreter
            self._note(error)
            self._channel.break_off()  # wakes the thread that receives
            raise
        finally:
            self._release(held)
            self._forget(payload)
            self._wait_to_receive()

    def _reserve(self, count: int) -> None:
        """Wait until requests may hold *count* bytes more; a single one may hold any number."""
        with self._held_less:
            while self._held and self._held + count > MOST_HELD:
                self._held_less.wait(SIGNAL_CHECK_SECONDS)
            self._held += count

    def _release(self, count: int) -> None:
        with self._held_less:
            self._held -= count
            self._held_less.notify()

    def _begin(self) -> int:
        began = time.monotonic_ns()
        with self._counting:
            self._under_way.append(began)
            self._meter.set_busy(self._under_way[0])
        return began

    def _finish(self, began: int) -> None:
        with self._counting:
            super()._count_batch(1, began)
            self._under_way.remove(began)
            self._meter.set_busy(self._under_way[0] if self._under_way else 0)

    def _count_batch(self, requests: int, began: int) -> None:
        pass

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._serve_with_others, args=(client.serving(),))
        try:
            thread.start()
        except RuntimeError as error:  # go on with those there are
            self._limit = len(self._threads) + 1
            log.warning("%s: this client has %d of them", error, self._limit)
        else:
            self._threads.append(thread)


def _gravity(error: BaseException) -> int:
    if isinstance(error, CutShort):
        return 1
    return 0 if isinstance(error, Disconnected) else 2
