"""The blocking byte stream of one client, received and sent in batches.

One receive takes whatever the client has sent; replies are collected and leave together.
The law that makes batching safe is kept here and nowhere else: *never block in a receive
while holding unsent replies*.  This file knows no message of the protocol.
"""

import errno
import fcntl
import mmap
import os
import socket
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from struct import unpack
from typing import TYPE_CHECKING, ClassVar

from nbdfork.protocol.errors import CutShort, Disconnected, ProtocolError, TlsFailed
from nbdfork.protocol.stream import Stream
from nbdfork.types import Buffer

if TYPE_CHECKING:
    import ssl

    from nbdfork.backend.client import Protection
    from nbdfork.protocol.tls import TlsStream

RECEIVE_SIZE = 256 * 1024
"""The most that is received at once, be it requests or the beginning of a payload."""

BUFFER_SIZE = RECEIVE_SIZE + 1024 * 1024
"""Room for that and for the rest of a payload, so that one of up to 1 MiB is handed on where it
was received.  Memory that is never needed is never touched."""

SPIN_SECONDS = 50e-6
"""How long to look for the next request before going to sleep.  To fall asleep and be woken
takes about as long, and a client that waits for each answer sends the next request sooner."""

SPIN_SIZE = 32 * 1024
"""It is only looked for if no more than this was received and sent since the last time, as with
a client that waits for each answer.  Others have enough to do, and need the processor for it."""

MOST_SKIPPED = 256
"""After looking has failed, up to this many receives block right away before it is tried again,
so that a slow client or a busy machine costs next to nothing."""

SEND_SIZE = 64 * 1024
"""Queued replies are sent once they have this many bytes, even if more requests could be parsed:
the client can work on them while the next ones are made."""

JOIN_SIZE = 32 * 1024
"""Up to this size it is cheaper to copy data behind its header than to send two buffers."""

MAX_PARTS = 1000
"""Queued replies are sent once they are this many buffers; sendmsg(2) takes at most 1024."""

DISCARD_SIZE = 64 * 1024  # unwanted bytes are read and dropped in pieces of this size

RESERVE_SIZE = 1024 * 1024  # in such steps it is asked whether there may be more of a payload

LINGER_SECONDS = 2.0
"""How long a close waits for the client to take its last replies."""


class Channel:
    """A stream with a receive buffer and a queue of replies.

    `buffer[start:end]` is what has been received and not yet consumed.  The request loop
    reads these three directly, because a method call per request would be felt.
    """

    _open: ClassVar[set["Channel"]] = set()  # those of this process

    def __init__(self, stream: Stream, spins: bool = False) -> None:
        """With *spins*, a receive may keep a processor busy for a moment, unless the process has
        other clients, which that would keep from running.
        """
        self.buffer = mmap.mmap(-1, BUFFER_SIZE)  # unlike a bytearray, not touched yet
        self.start = 0
        self.end = 0
        self._view = memoryview(self.buffer)
        self._stream = stream
        self._tls: TlsStream | None = None
        self._parts: list[Buffer] = []
        self._pending = 0
        self.read_again: Callable[[int, int], Buffer] | None = None
        """Returns so many bytes from an offset of the disk, in memory that can be read."""
        self._view_end = 0  # where on the disk the view ends that is sent
        self._deadline: float | None = None
        self._idle_limit: float | None = None
        self._allowance: int | None = None  # bytes still to be received, once stopped
        self._spins = spins
        self._misses = 0  # failed spins in a row
        self._skip = 0  # how many receives still block right away
        self._moved = 0  # bytes received and sent since then
        self._open.add(self)

    # -- receiving ----------------------------------------------------------------------

    def receive(self, count: int) -> bool:
        """Block until *count* bytes (at most `BUFFER_SIZE`) are in the buffer.

        Return False if the client left at a message boundary, that is with nothing of the
        *count* bytes sent.  Raises `CutShort` if it left after a part of them, `Disconnected` if
        the connection failed before.
        """
        self.flush()
        view = self._view
        have = self.end - self.start
        if not have:
            self.start = self.end = 0
        elif self.start + count > BUFFER_SIZE:
            view[:have] = view[self.start : self.end]
            self.start, self.end = 0, have
        while self.end - self.start < count:
            try:
                got = self._receive_into(view[self.end : self.end + RECEIVE_SIZE])
            except Disconnected as error:
                if self.end == self.start:
                    raise
                raise CutShort(str(error)) from error
            if not got:
                if self.end == self.start:
                    return False
                raise CutShort("the client left in the middle of a message")
            self.end += got
        return True

    def take(self, count: int) -> memoryview:
        """Consume exactly *count* bytes of a message.

        They are at most `BUFFER_SIZE`.  The view is good until the next receive: a payload is
        handed on where it was received.  Raises `CutShort` if they do not come.
        """
        if self.end - self.start < count:
            try:
                if not self.receive(count):
                    raise CutShort("the client left before the data it announced")
            except Disconnected as error:
                raise CutShort(str(error)) from error
        start = self.start
        self.start = start + count
        return self._view[start : self.start]

    def take_large(self, count: int, reserve: Callable[[int], object]) -> memoryview:
        """Consume *count* bytes, more than the buffer has room for, into memory of their own.

        *reserve* is told of them as they come, and may raise OSError.  That, and ENOMEM, is raised
        when all of them have been dropped; `CutShort` if they do not come.
        """
        self.flush()
        try:
            # A page is there when a byte of it has come: what is announced costs nothing.
            large = memoryview(mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except OSError:
            self.discard(count)
            raise
        filled = self.end - self.start
        large[:filled] = self._view[self.start : self.end]
        self.start = self.end = reserved = 0
        while filled < count:
            filled += self._receive_part(large[filled:])
            if filled - reserved >= RESERVE_SIZE or filled == count:
                try:
                    reserve(filled - reserved)
                except OSError:
                    large.release()  # before the rest of them, which may take its time
                    self.discard(count - filled)
                    raise
                reserved = filled
        return large

    def _receive_part(self, view: memoryview) -> int:
        with view:
            try:
                got = self._receive_into(view)
            except Disconnected as error:
                raise CutShort(str(error)) from error
            if not got:
                raise CutShort("the client left in the middle of a payload")
            return got

    def discard(self, count: int) -> None:
        """Consume *count* bytes that nobody wants, without ever holding them all."""
        while count:
            count -= len(self.take(min(count, DISCARD_SIZE)))

    def _receive_into(self, view: memoryview) -> int:
        if self._allowance is not None:
            if self._allowance <= 0:
                return 0
            view = view[: self._allowance]
        if self._deadline is not None:
            self._stream.settimeout(self._remaining())
        try:
            if self._spins and not self._skip and self._may_spin():
                got = self._receive_spinning(view)
            else:
                self._skip -= self._skip > 0
                got = self._stream.recv_into(view)
            self._moved = got
        except OSError as error:  # a reset, a time-out: to the protocol they are all "gone"
            raise Disconnected(str(error)) from error
        if self._allowance is not None:
            self._allowance -= got
        return got

    def _may_spin(self) -> bool:
        return self._moved <= SPIN_SIZE and self._deadline is None and len(self._open) == 1

    def _receive_spinning(self, view: memoryview) -> int:
        """Receive without going to sleep if something comes within `SPIN_SECONDS`."""
        receive_into = self._stream.recv_into
        deadline = time.monotonic() + SPIN_SECONDS
        while True:
            try:
                got = receive_into(view, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                os.sched_yield()  # it may be the client that wants this processor
            else:
                self._misses = 0
                return got
        self._misses += 1
        self._skip = min(1 << self._misses, MOST_SKIPPED)
        return receive_into(view)

    # -- sending ------------------------------------------------------------------------

    def put(self, message: bytes) -> None:
        """Queue a message."""
        self._parts.append(message)
        self._pending += len(message)
        if self._pending >= SEND_SIZE or len(self._parts) >= MAX_PARTS:
            self.flush()

    def put_with_data(self, header: bytes, data: Buffer, offset: int = 0) -> None:
        """Queue a message of a header and data, which are those at *offset* of the disk.

        Anything but `bytes` may change before it leaves, for it may be the plugin's own memory:
        if small it is copied, if large it is sent at once.
        """
        if len(data) <= JOIN_SIZE:
            message = header + data  # and as in `put`, for this is the hottest path of all
            self._parts.append(message)
            self._pending += len(message)
            if self._pending >= SEND_SIZE or len(self._parts) >= MAX_PARTS:
                self.flush()
            return
        self._parts += (header, data)
        self._pending += len(header) + len(data)
        if type(data) is not bytes:
            self._view_end = offset + len(data)
            self.flush()
        elif self._pending >= SEND_SIZE or len(self._parts) >= MAX_PARTS:
            self.flush()

    def flush(self) -> None:
        """Send all that is queued."""
        if not self._pending:
            return
        parts, pending = self._parts, self._pending
        self._parts, self._pending = [], 0
        self._moved += pending
        if self._deadline is not None:
            self._stream.settimeout(self._remaining())
        try:
            sent = self._stream.sendmsg(parts)
            while sent < pending:
                parts = _drop(parts, sent)
                pending -= sent
                if self._deadline is not None:
                    self._stream.settimeout(self._remaining())
                sent = self._stream.sendmsg(parts)
        except OSError as error:
            if error.errno != errno.EFAULT or self.read_again is None:
                raise CutShort(str(error)) from error
            self._send_read_again(parts, pending, self.read_again)

    def _send_read_again(
        self, parts: list[Buffer], pending: int, read_again: Callable[[int, int], Buffer]
    ) -> None:
        """Send the *pending* bytes of *parts*, though the view that is the last of them is gone: a
        mapped file was cut off, or has a hole that there is no space to fill.
        """
        left = len(parts[-1])
        data = read_again(left, self._view_end - left)
        self._parts, self._pending = [*parts[:-1], data], pending
        self.read_again = None  # what is gone as well is the end of it
        Channel.flush(self)
        self.read_again = read_again

    # -- limits and the end -------------------------------------------------------------

    def set_deadline(self, seconds: float | None) -> None:
        """All receiving and sending from now on must be over in *seconds*; None lifts the limit."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._stream.settimeout(self._idle_limit if seconds is None else seconds)

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Do what takes its time, for which the client cannot answer: the deadline is put off."""
        began = time.monotonic()
        try:
            yield
        finally:
            if self._deadline is not None:
                self._deadline += time.monotonic() - began

    def set_idle_limit(self, seconds: float | None) -> None:
        """Give up a client that sends or takes nothing for *seconds*, once there is no deadline."""
        self._idle_limit = seconds
        if self._deadline is None:
            self._stream.settimeout(seconds)

    def _remaining(self) -> float:
        """Return the seconds until the deadline.  Raises `Disconnected` if it is over."""
        assert self._deadline is not None
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise Disconnected("timed out")
        return remaining

    def secure(self, context: "ssl.SSLContext") -> "Protection":
        """Send what is queued, and from then on let TLS protect all that is said.

        Raises `ProtocolError` if something has been received already, be it from the client or from
        somebody in between, `TlsFailed` if the two sides do not come to an agreement.
        """
        from nbdfork.protocol.tls import TlsStream  # most servers have no use for it

        self.flush()
        if self.start != self.end:
            raise ProtocolError("the client did not wait for TLS to begin")
        tls = TlsStream(self._stream, context)
        try:
            protection = tls.handshake(self._deadline)
        except OSError as error:
            raise TlsFailed(f"TLS: {error}") from error
        self._stream = self._tls = tls
        return protection

    @property
    def stopped(self) -> bool:
        """Whether it is the server that ends the connection, by `stop` or `cut`."""
        return self._allowance is not None

    def stop(self) -> None:
        """Receive only what was sent until now, then report that the client left.

        Signal handlers may call it.
        """
        try:
            waiting = fcntl.ioctl(self._stream.fileno(), termios.FIONREAD, bytes(4))
            self._allowance = unpack("i", waiting)[0] + (self._tls.unread if self._tls else 0)
            self._stream.shutdown(socket.SHUT_RD)
        except (OSError, ValueError):
            self._allowance = 0  # not connected any more, or closed in this very moment

    def cut(self) -> None:
        """End the connection at once, from any thread: nothing more is received, parsed or sent."""
        self._allowance = 0
        self.end = self.start
        self.break_off()

    def break_off(self) -> None:
        """Let all threads that wait for the client go on; what is sent then raises `CutShort`."""
        with suppress(OSError):  # not connected any more
            self._stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Send what is queued and close, so that the client can still read all of it.

        Closing a socket with unread bytes resets the connection and may destroy replies on their
        way: so say "no more", and read until the client has closed, or for `LINGER_SECONDS`.
        """
        try:
            self.flush()
            self._stream.shutdown(socket.SHUT_WR)
            self._allowance = None
            self.set_deadline(LINGER_SECONDS)
            while self._receive_into(self._view):
                pass
        except (OSError, Disconnected):
            pass  # the client is gone, which is what closing is for
        finally:
            self._open.discard(self)
            self._stream.close()


def _drop(parts: list[Buffer], count: int) -> list[Buffer]:
    """Return *parts* without their first *count* bytes."""
    for index, part in enumerate(parts):
        if count < len(part):
            return [memoryview(part)[count:], *parts[index + 1 :]]
        count -= len(part)
    return []
