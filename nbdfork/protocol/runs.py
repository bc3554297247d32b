"""Runs of plain requests, carried out by the extension module if there is one.

Plain is a READ or WRITE without flags of a disk that is a file.  The module receives, reads or
writes, and sends, as long as nothing else comes and it need not wait for the client; waiting,
deadlines, signals and errors stay with `Channel` and `Transmission`, and what the module leaves is
still in the buffer for them.
"""

import os
import socket
from contextlib import suppress

from nbdfork import speedups
from nbdfork.backend import FileRange
from nbdfork.backend.errors import Refused
from nbdfork.backend.gate import ANY_SIZE, LARGE
from nbdfork.protocol import wire
from nbdfork.protocol.channel import (
    MOST_SKIPPED,
    RECEIVE_SIZE,
    SPIN_SECONDS,
    SPIN_SIZE,
    Channel,
)
from nbdfork.protocol.errors import CutShort, Disconnected
from nbdfork.protocol.meter import Meter
from nbdfork.protocol.replies import ExtendedReplies, SimpleReplies, StructuredReplies
from nbdfork.protocol.splicing import MOST, Pipe, Unmoved
from nbdfork.protocol.transmission import Payload, Session, Transmission

REPLY_SIZE = LARGE + 4096
"""Room for replies: they are sent when it is full, even if more requests could be carried out.  It
holds the largest that is made, and those to as many reads of 4 KiB as clients usually have in
flight."""

MOST_NANOSECONDS = 5_000_000
"""So long the module goes on before what it has done is counted.  For a watchdog, and for signals,
that is no time."""

_SPIN_NANOSECONDS = round(SPIN_SECONDS * 1e9)

_DIALECTS = (SimpleReplies, StructuredReplies, ExtendedReplies)


class RunChannel(Channel):
    """A channel with runs of plain requests, once they have been started."""

    _exchange: "speedups.Exchange | None" = None
    waited = 0
    """Nanoseconds of the last run in which there were no requests."""
    _failure = 0  # the errno of a receive that has failed
    _wanted = 0  # so many bytes are received at most, or any number
    exactly = False
    """Nothing is received that has not been asked for: what comes next may not be for memory."""

    def start_runs(
        self,
        file: FileRange,
        dialect: int,
        misaligned: int,
        most: int,
        least_sparse: int,
        writable: bool,
    ) -> None:
        """Begin to carry out requests for *file*.

        A READ or WRITE of more than *most* bytes is left, and one that has any bit of *misaligned*;
        a READ of *least_sparse* bytes if there may be holes.
        """
        is_socket = self._tls is None and isinstance(self._stream, socket.socket)
        self._socket = self._stream.fileno() if is_socket else -1
        self._exchange = speedups.Exchange(
            self.buffer, REPLY_SIZE, RECEIVE_SIZE, dialect, file.fd, file.start, most, most,
            misaligned, least_sparse, writable,
        )  # fmt: skip

    def run(self, size: int, data: tuple[int, int]) -> tuple[int, int, int]:
        """Carry out requests for a disk of *size* that were received, and some that come next.

        It is known to have no holes from the first number of *data* to the second.
        Returns how many there were, and how many bytes they have read and written.  What cannot be
        sent or received is told by the next `flush` or `receive`.
        """
        assert self._exchange is not None
        self.flush()
        goes_on = self._deadline is None and self._allowance is None and not self.exactly
        spins = self._spins and not self._skip and len(self._open) == 1
        result = self._exchange.run(
            self.start, self.end, size, *data, self._socket if goes_on else -1,
            _SPIN_NANOSECONDS if spins else 0, SPIN_SIZE, self._moved, MOST_NANOSECONDS,
        )  # fmt: skip
        self.start, self.end, done, bytes_read, bytes_written = result[:5]
        self._moved, self.waited, missed, error, lost, unsent = result[5:]
        if lost:
            raise CutShort("the disk failed while it was being sent")
        if missed:
            self._misses += 1
            self._skip = min(1 << self._misses, MOST_SKIPPED)
        elif done and spins:
            self._misses = 0
        if unsent is not None:  # nothing is carried out before it has left
            self._parts.append(unsent)
            self._pending += len(unsent)
        self._failure = error
        return done, bytes_read, bytes_written

    def receive(self, count: int) -> bool:
        self._wanted = count if self.exactly else 0
        try:
            return super().receive(count)
        finally:
            self._wanted = 0

    def _receive_into(self, view: memoryview) -> int:
        if self._failure:
            raise Disconnected(os.strerror(self._failure))
        if self._wanted:
            view = view[: self._wanted - (self.end - self.start)]
        return super()._receive_into(view)

    def open_pipe(self) -> Pipe | None:
        """Return a pipe for payloads, or None if they cannot come by one."""
        if self._socket == -1:
            return None
        with suppress(OSError):
            return Pipe(self._socket)
        return None

    def fill(self, pipe: Pipe, count: int) -> None:
        """Have the next *count* bytes in *pipe*.  Raises what `Pipe.fill` raises.

        The buffer must be empty, and nobody have limited what may still be received.
        """
        self.flush()
        pipe.fill(count, self._idle_limit)

    def take_moved(self, pipe: Pipe, count: int) -> memoryview:
        """Consume *count* bytes of which some are in *pipe*, all the same.  Raises `CutShort`."""
        large = memoryview(bytearray(count))
        filled = pipe.read(large)
        while filled < count:
            filled += self._receive_part(large[filled:])
        return large

    @property
    def must_receive(self) -> bool:
        """Whether something is in the buffer, or it is limited what may come, or for how long."""
        return self.start != self.end or self._deadline is not None or self._allowance is not None

    def stop(self) -> None:
        self._leave_all()
        super().stop()

    def cut(self) -> None:
        self._leave_all()
        super().cut()

    def _leave_all(self) -> None:
        if self._exchange is not None:
            self._exchange.stop()


class RunTransmission(Transmission):
    """The transmission phase of a client whose plain requests the module may carry out."""

    _pipe: Pipe | None = None  # for the payloads of large writes
    _waited = 0  # nanoseconds of this batch in which there were no requests
    _most_moved = 0  # no larger one gets through it

    def __init__(self, channel: Channel, session: Session, meter: Meter) -> None:
        super().__init__(channel, session, meter)
        gate, replies = session.gate, session.replies
        if gate.file is None or not speedups.AVAILABLE or not isinstance(channel, RunChannel):
            return
        channel.start_runs(
            gate.file,
            _DIALECTS.index(replies),
            gate.misaligned,
            self._small_payload,
            self._least_sparse if replies.has_chunks else ANY_SIZE,
            gate.can_write,
        )
        self._channel: RunChannel = channel
        self._run = self._run_plain
        if gate.can_write and not gate.misaligned:
            self._most_moved = MOST

    def _run_plain(self) -> int:
        """Have the next requests carried out as long as they are plain; return how many were."""
        file = self._gate.file
        if file is None:  # the disk has been resized
            return 0
        done, bytes_read, bytes_written = self._channel.run(file.size, self._gate.known_data)
        if done:
            self._channel.exactly = False
        self._bytes_read += bytes_read
        self._bytes_written += bytes_written
        self._waited += self._channel.waited
        return done

    def _count_batch(self, requests: int, began: int) -> None:
        waited, self._waited = self._waited, 0
        super()._count_batch(requests, began + waited)

    def refuse(self) -> None:
        self._run = None
        super().refuse()

    def serve(self) -> None:
        try:
            super().serve()
        finally:
            if self._pipe is not None:
                self._pipe.close()
                self._pipe = None

    # -- large writes -------------------------------------------------------------------

    def _take_payload(self, command: int, flags: int, length: int) -> Payload:
        """As for all others, but a large payload may be moved into the pipe, and is empty here."""
        may_be_moved = LARGE <= length <= self._most_moved and not flags & wire.CMD_FLAG_FUA
        if command != wire.CMD_WRITE or not may_be_moved:
            return super()._take_payload(command, flags, length)
        channel = self._channel
        if channel.must_receive or (pipe := self._open_pipe()) is None:
            channel.exactly = self._most_moved > 0  # the next one may come without its payload
            return super()._take_payload(command, flags, length)
        try:
            channel.fill(pipe, length)
        except Unmoved:
            self._most_moved = length - 1
            return self._held(length, channel.take_moved(pipe, length))
        return self._held(length, memoryview(b""))

    def _open_pipe(self) -> Pipe | None:
        """Return the pipe, made when it is first needed, or None if there can be none."""
        if self._pipe is None:
            self._pipe = self._channel.open_pipe()
            if self._pipe is None:
                self._most_moved = 0
        return self._pipe

    def _held(self, length: int, payload: memoryview) -> Payload:
        """Return a payload whose memory is counted, or None if there is none."""
        try:
            self._holdings.add(length)
        except Refused:
            self._take_from_pipe()
            return None
        return payload

    def _forget(self, payload: Payload) -> None:
        if self._pipe is not None and self._pipe.filled:  # it was refused, and not even tried
            self._take_from_pipe()
        super()._forget(payload)

    def _take_from_pipe(self) -> memoryview:
        assert self._pipe is not None
        data = memoryview(bytearray(self._pipe.filled))
        self._pipe.read(data)
        return data

    def _write(self, flags: int, offset: int, length: int, data: Payload) -> None:
        if data is None or len(data) == length:
            super()._write(flags, offset, length, data)
            return
        pipe, file = self._pipe, self._gate.file
        assert pipe is not None
        written = 0
        if file is not None and self._gate.can_write and offset + length <= file.size:
            written = pipe.write(file.fd, file.start + offset)
            if not pipe.is_of_use:
                self._most_moved = 0
        if written < length:  # not at all, or not all of it: then it is said why
            self._gate.pwrite(self._take_from_pipe(), offset + written, False)
