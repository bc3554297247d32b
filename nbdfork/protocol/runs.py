"""Runs of plain requests, carried out by the extension module if there is one.

Plain is a READ or WRITE without flags of a disk that is a file.  The module receives, reads or
writes, and sends, as long as nothing else comes and it need not wait for the client; waiting,
deadlines, signals and errors stay with `Channel` and `Transmission`, and what the module leaves is
still in the buffer for them.
"""

import os
import socket

from nbdfork import speedups
from nbdfork.backend import FileRange
from nbdfork.backend.gate import LARGE
from nbdfork.protocol.channel import (
    MOST_SKIPPED,
    RECEIVE_SIZE,
    SPIN_SECONDS,
    SPIN_SIZE,
    Channel,
)
from nbdfork.protocol.errors import Disconnected
from nbdfork.protocol.meter import Meter
from nbdfork.protocol.replies import ExtendedReplies, SimpleReplies, StructuredReplies
from nbdfork.protocol.transmission import Session, Transmission

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
    _failure = 0  # the errno of a receive that has failed

    def start_runs(
        self,
        file: FileRange,
        dialect: int,
        misaligned: int,
        most_read: int,
        most_written: int | None,
    ) -> None:
        """Begin to carry out requests for *file*; with None for *most_written*, no writes.

        A longer READ or WRITE is left, and one that has any bit of *misaligned*.
        """
        is_socket = self._tls is None and isinstance(self._stream, socket.socket)
        self._socket = self._stream.fileno() if is_socket else -1
        self._exchange = speedups.Exchange(
            self.buffer, REPLY_SIZE, RECEIVE_SIZE, dialect, file.fd, file.start, most_read,
            most_written or 0, misaligned, most_written is not None,
        )  # fmt: skip

    def run(self, size: int) -> tuple[int, int, int]:
        """Carry out requests for a disk of *size* that were received, and some that come next.

        Returns how many there were, and how many bytes they have read and written.  What cannot be
        sent or received is told by the next `flush` or `receive`.
        """
        assert self._exchange is not None
        self.flush()
        goes_on = self._deadline is None and self._allowance is None
        spins = self._spins and not self._skip and len(self._open) == 1
        result = self._exchange.run(
            self.start, self.end, size, self._socket if goes_on else -1,
            _SPIN_NANOSECONDS if spins else 0, SPIN_SIZE, self._moved, MOST_NANOSECONDS,
        )  # fmt: skip
        self.start, self.end, done, bytes_read, bytes_written = result[:5]
        self._moved, missed, error, unsent = result[5:]
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

    def _receive_into(self, view: memoryview) -> int:
        if self._failure:
            raise Disconnected(os.strerror(self._failure))
        return super()._receive_into(view)

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

    def __init__(self, channel: Channel, session: Session, meter: Meter) -> None:
        super().__init__(channel, session, meter)
        gate, replies = session.gate, session.replies
        if gate.file is None or not speedups.AVAILABLE or not isinstance(channel, RunChannel):
            return
        channel.start_runs(
            gate.file,
            _DIALECTS.index(replies),
            gate.misaligned,
            # Longer ones may leave out holes.
            self._least_sparse - 1 if replies.has_chunks else self._small_payload,
            self._small_payload if gate.can_write else None,
        )
        self._channel: RunChannel = channel
        self._run = self._run_plain

    def _run_plain(self) -> int:
        """Have the next requests carried out as long as they are plain; return how many were."""
        file = self._gate.file
        if file is None:  # the disk has been resized
            return 0
        done, bytes_read, bytes_written = self._channel.run(file.size)
        self._bytes_read += bytes_read
        self._bytes_written += bytes_written
        return done

    def refuse(self) -> None:
        self._run = None
        super().refuse()
