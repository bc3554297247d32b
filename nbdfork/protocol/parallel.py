"""The request loop for disks that wait: several requests of one client at the same time.

One thread receives; each request is carried out, and answered as soon as it is done, by one of a
few others.  Waiting for a network releases the interpreter's lock, so the threads do not stand
in each other's way; for a disk that does not wait they would only cost.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

from nbdfork.plugin import client
from nbdfork.protocol.channel import SharedChannel
from nbdfork.protocol.errors import Disconnected
from nbdfork.protocol.transmission import Payload, Session, Transmission

log = logging.getLogger(__name__)


class ParallelTransmission(Transmission):
    """The transmission phase of a client that has up to *threads* requests carried out at once.

    Replies come in any order, as the protocol allows.  A FLUSH covers all writes that were
    answered before it came, as it must; it does not wait for those under way.
    """

    def __init__(self, channel: SharedChannel, session: Session, threads: int) -> None:
        super().__init__(channel, session)
        self._threads = threads
        self._free = Semaphore(threads)
        self._pool: ThreadPoolExecutor | None = None

    def serve(self) -> None:
        here = (client.current(),)
        with ThreadPoolExecutor(self._threads, "request", client.set_current, here) as self._pool:
            super().serve()

    def _answer(
        self,
        flags: int,
        command: int,
        cookie: bytes,
        offset: int,
        length: int,
        payload: Payload,
    ) -> None:
        assert self._pool is not None
        if payload is not None:  # it lies where the next request will be received
            payload = memoryview(bytes(payload))
        self._free.acquire()
        self._pool.submit(self._carry_out, flags, command, cookie, offset, length, payload)

    def _carry_out(
        self,
        flags: int,
        command: int,
        cookie: bytes,
        offset: int,
        length: int,
        payload: Payload,
    ) -> None:
        try:
            super()._answer(flags, command, cookie, offset, length, payload)
        except Disconnected as error:
            log.debug("a reply could not be sent: %s", error)
            self._channel.stop()  # wakes the thread that receives
        except BaseException:
            log.exception("a request's thread failed")
            self._channel.stop()
        finally:
            self._free.release()
