"""The request loop for disks that can have many requests under way in one thread.

The thread of the client waits for the client and for the far end at the same time: it begins a READ
or a WRITE there, and replies when that has ended (`nbdfork.plugin.pipeline`).  What else a client
wants, and what cannot be done in this way, is carried out by other threads, which only come into
being when there is something for them.  The channel they share is here, too.
"""

import errno
import logging
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from nbdfork.backend import Unfinished, client
from nbdfork.backend.gate import LARGE
from nbdfork.backend.pipelined import CheckedPipeline
from nbdfork.protocol import wire
from nbdfork.protocol.errors import Disconnected
from nbdfork.protocol.meter import Meter
from nbdfork.protocol.parallel import MOST_HELD, SharedChannel
from nbdfork.protocol.stream import Stream
from nbdfork.protocol.transmission import Payload, Session, Transmission
from nbdfork.types import Buffer

log = logging.getLogger(__name__)


class PipelinedChannel(SharedChannel):
    """A channel that serves a pipeline whenever it waits for the client.

    Until it has one, it is an ordinary shared channel.
    """

    def __init__(self, stream: Stream, spins: bool = False) -> None:
        super().__init__(stream, spins)
        self._pipeline: CheckedPipeline | None = None
        self._settle: Callable[[], None] = lambda: None
        self._poll = select.poll()
        self._polled: Mapping[int, int] = {}
        self._is_polled = False  # the client is
        self._bell = -1
        self._client = -1

    def attend(self, pipeline: CheckedPipeline, bell: int, settle: Callable[[], None]) -> None:
        """From now on, serve *pipeline* while this thread waits.

        *settle* is called before each wait; *bell*, an event descriptor, ends it.
        """
        self.alone = threading.get_ident()
        self._pipeline, self._bell, self._settle = pipeline, bell, settle
        self._client = self._stream.fileno()
        self._poll.register(bell, select.POLLIN)

    def leave(self) -> None:
        """Serve it no longer."""
        self.alone = None
        self._pipeline = None

    def _may_spin(self) -> bool:
        return self._pipeline is None and super()._may_spin()

    def _receive_into(self, view: memoryview) -> int:
        pipeline = self._pipeline
        if pipeline is not None and self._allowance is None and not self._has_decrypted():
            while not self.wait(pipeline, for_client=True) and self._allowance is None:
                pass
        return super()._receive_into(view)

    def _has_decrypted(self) -> bool:
        return self._tls is not None and self._tls.unread > 0

    def wait(self, pipeline: CheckedPipeline, *, for_client: bool) -> bool:
        """Send all replies, wait until something can be done, and do that.

        Return whether the client has sent something, if it is to be waited for, too.  Raises
        `Disconnected` if the client is silent for too long.
        """
        self._settle()
        if for_client or not self._is_broken:
            self.flush()
        self._set_polled(pipeline.awaits(), for_client)
        limit = self._idle_limit if self._deadline is None else self._remaining()
        found = self._poll.poll(None if limit is None or not for_client else limit * 1000)
        ready = dict(found)
        has_come = ready.pop(self._client, 0) != 0
        if ready.pop(self._bell, 0):
            os.eventfd_read(self._bell)
        pipeline.proceed(ready)
        if not found:
            raise Disconnected("timed out")
        return has_come

    def _set_polled(self, awaited: Mapping[int, int], is_for_client: bool) -> None:
        if awaited is not self._polled:
            for fd in self._polled:
                self._poll.unregister(fd)
            for fd, events in awaited.items():
                self._poll.register(fd, events)
            self._polled = awaited
        if is_for_client is not self._is_polled:
            self._is_polled = is_for_client
            if is_for_client:
                self._poll.register(self._client, select.POLLIN)
            else:
                self._poll.unregister(self._client)


class _Request:
    """A request under way; *counted* of its bytes are counted for all clients together."""

    __slots__ = (
        *("began", "command", "cookie", "counted", "flags", "held", "length", "offset", "payload"),
    )

    def __init__(
        self,
        flags: int,
        command: int,
        cookie: bytes,
        offset: int,
        length: int,
        payload: Payload,
        counted: int,
    ) -> None:
        self.began = time.monotonic_ns()
        self.flags = flags
        self.command = command
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.payload = payload
        self.counted = counted
        self.held = length if command in (wire.CMD_READ, wire.CMD_WRITE) else 0


class PipelinedTransmission(Transmission):
    """The transmission phase of a client whose disk has *pipeline*.

    Up to *limit* of its requests are under way, and replied to in any order.  A FLUSH covers all
    writes that were answered before it came.
    """

    def __init__(
        self,
        channel: PipelinedChannel,
        session: Session,
        meter: Meter,
        limit: int,
        pipeline: CheckedPipeline,
    ) -> None:
        super().__init__(channel, session, meter)
        self._begin_batch = lambda since: None  # what is under way is told by `_settle`
        self._session = session
        self._pipelined = channel
        self._pipeline = pipeline
        self._limit = limit
        self._under_way: dict[_Request, None] = {}  # an ordered set: the oldest first
        self._held = 0  # bytes of those
        self._ended = 0  # how many have ended since that was last told
        self._spent = 0  # and the nanoseconds they took
        self._busy_since = 0
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads: list[threading.Thread] = []
        self._todo: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._done: deque[_Request] = deque()  # by other threads
        self._aside = 0  # how many requests other threads have
        self._error: BaseException | None = None

    def __del__(self) -> None:
        os.close(self._bell)

    def serve(self) -> None:
        self._pipelined.attend(self._pipeline, self._bell, self._settle)
        try:
            super().serve()
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._finish_all()
            self._end_threads()
            self._pipelined.leave()
            self._pipeline.close()
        if self._error is not None:
            raise self._error

    def refuse(self) -> None:
        # Nothing of it has to wait.
        Transmission(self._channel, self._session, self._meter).refuse()

    def _note(self, error: BaseException) -> None:
        """Let *error* end the connection, in whatever thread it was raised."""
        self._error = self._error or error
        self._channel.break_off()  # so nobody waits for the client any more

    def _finish_all(self) -> None:
        """Wait for the requests under way, whether or not their replies can still be sent."""
        while self._under_way:
            self._wait_for_one()
        self._settle()
        try:
            self._channel.flush()
        except Disconnected as error:
            self._note(error)

    def _wait_for_one(self) -> None:
        """Wait until a request may have ended."""
        if self._done:
            self._settle()
            return
        try:
            self._pipelined.wait(self._pipeline, for_client=False)
        except Disconnected as error:  # it is seen again when the client is waited for
            self._note(error)

    def _settle(self) -> None:
        """Count what has ended, and tell since when there is something under way."""
        while self._done:
            request = self._done.popleft()
            self._aside -= 1
            self._end(request)
            self._let_go(request)
        if self._ended:
            ended, self._ended = self._ended, 0
            spent, self._spent = self._spent, 0
            super()._count_batch(ended, time.monotonic_ns() - spent)
        oldest = next(iter(self._under_way), None)
        since = 0 if oldest is None else oldest.began
        if since != self._busy_since:
            self._busy_since = since
            self._meter.set_busy(since)

    def _count_batch(self, requests: int, began: int) -> None:
        pass

    # -- requests -----------------------------------------------------------------------

    def _answer(
        self,
        flags: int,
        command: int,
        cookie: bytes,
        offset: int,
        length: int,
        payload: Payload,
    ) -> None:
        """Begin a request."""
        if payload is not None and payload.obj is self._channel.buffer:
            payload = memoryview(bytes(payload))  # the next request will be received there
        counted = self._holdings.take_over()
        request = _Request(flags, command, cookie, offset, length, payload, counted)
        held = request.held
        while self._under_way and (
            len(self._under_way) >= self._limit or self._held + held > MOST_HELD
        ):
            self._wait_for_one()
        self._under_way[request] = None
        self._held += held
        if not self._begin(request):
            self._put_aside(request)

    def _begin(self, request: _Request) -> bool:
        """Begin a request in the pipeline; return False if it cannot be carried out there."""
        allowed = self._commands.get(request.command)
        if allowed is None or request.flags & ~allowed[0] or request.length > self._max_payload:
            return False
        if request.command == wire.CMD_READ:
            if request.length >= LARGE:
                if not self._meter.hold(request.length):
                    return False  # it will be refused
                request.counted = request.length
            return self._pipeline.read(
                request.length, request.offset, partial(self._reply, request)
            )
        if request.command == wire.CMD_WRITE and request.payload is not None:
            fua = bool(request.flags & wire.CMD_FLAG_FUA)
            ended = partial(self._reply, request)
            return self._pipeline.write(request.payload, request.offset, fua, ended)
        return False

    def _reply(self, request: _Request, result: Buffer | Exception | None) -> None:
        """A request has ended in the pipeline."""
        if isinstance(result, Unfinished):
            self._put_aside(request)
            return
        self._end(request)
        cookie, offset, length = request.cookie, request.offset, request.length
        try:
            if isinstance(result, Exception):
                self._fail(result, request.flags, request.command, cookie, offset, length)
            elif result is None and request.command == wire.CMD_WRITE:
                self._bytes_written += length
                self._replies.success(cookie, offset)
            elif result is None or len(result) != length:
                returned = "nothing" if result is None else f"{len(result)} bytes"
                error = OSError(errno.EIO, f"the plugin returned {returned} for {length} bytes")
                self._fail(error, request.flags, request.command, cookie, offset, length)
            else:
                self._bytes_read += length
                self._replies.data(cookie, offset, result)
        except Disconnected as error:
            self._note(error)
        self._let_go(request)

    def _let_go(self, request: _Request) -> None:
        if request.counted:
            self._meter.let_go(request.counted)
            request.counted = 0

    def _forget(self, payload: Payload) -> None:
        pass  # it is needed until the request has ended

    def _end(self, request: _Request) -> None:
        del self._under_way[request]
        self._held -= request.held
        self._ended += 1
        self._spent += time.monotonic_ns() - request.began

    # -- other threads ------------------------------------------------------------------

    def _put_aside(self, request: _Request) -> None:
        """Let another thread carry out a request."""
        if request.command == wire.CMD_READ:  # it counts for itself
            self._let_go(request)
        if self._aside >= len(self._threads):
            self._add_thread()
        if self._threads:
            self._aside += 1
            self._todo.put(request)
            return
        self._reply(request, OSError(errno.ENOMEM, "there is no thread for this request"))

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._carry_out_all, args=(client.serving(),))
        try:
            thread.start()
        except RuntimeError as error:  # go on with those there are
            log.warning("%s: this client has %d of them", error, len(self._threads))
        else:
            self._threads.append(thread)

    def _carry_out_all(self, served: client.Client | None) -> None:
        client.set_serving(served)
        while (request := self._todo.get()) is not None:
            try:
                super()._answer(
                    request.flags,
                    request.command,
                    request.cookie,
                    request.offset,
                    request.length,
                    request.payload,
                )
            except BaseException as error:  # the client has gone; or a script ends the interpreter
                self._note(error)
            finally:
                self._done.append(request)
                os.eventfd_write(self._bell, 1)

    def _end_threads(self) -> None:
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
