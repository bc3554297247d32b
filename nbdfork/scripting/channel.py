"""The connection to a helper: requests go out, and replies come back in the same order.

A thread does not wait for the replies to other threads' requests before it sends its own; the
threads then read the replies in turn, each its own.  So clients of one worker wait for each other
in the helper only, and never in the server.
"""

import errno
import logging
import socket
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from nbdfork.scripting.frames import (
    NOTICE,
    NOTICE_DEBUG,
    NOTICE_SHUTDOWN,
    OPERATIONS,
    REPLY,
    REQUEST,
)
from nbdfork.scripting.script import MAX_ANSWER, CallbackFailed, too_long

log = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSED = "it closed the connection"

_MAX_PAYLOAD = MAX_ANSWER
"""The longest payload of a reply, in bytes, unless it is the data of a longer read."""

_MAX_DISCARDED = 1 << 30
"""A helper that announces more has lost its place in the stream."""

_PIECE = 1 << 20

PREAD = OPERATIONS["pread"]


class HelperGone(Exception):
    """The helper closed the connection, or sent what is not the helper protocol."""


class HelperChannel:
    """The server's end of a connection to a helper.

    *on_shutdown* is called when the script asks the server to stop.
    """

    def __init__(self, stream: socket.socket, on_shutdown: Callable[[], None]) -> None:
        self._stream = stream
        self._on_shutdown = on_shutdown
        self._sending = Lock()
        self._last = Lock()  # of the request that was sent last: free once its reply has been read
        self._gone = False
        self._unread = b""  # received but not parsed; only touched by the thread whose turn it is

    def close(self) -> None:
        """Close this end, which makes the helper exit."""
        self._stream.close()

    def set_timeout(self, seconds: float) -> None:
        """From now on, treat a helper that does not answer within *seconds* as gone."""
        self._stream.settimeout(seconds)

    def call(
        self,
        operation: str,
        payload: bytes | memoryview = b"",
        *,
        handle: int = 0,
        flags: int = 0,
        count: int = 0,
        offset: int = 0,
    ) -> tuple[int, bytes]:
        """Make a request, and return the value and the payload of its reply.

        Raises `CallbackFailed` for an error, `HelperGone` if there is no reply.
        """
        request = (OPERATIONS[operation], handle, flags, count, offset)
        return self._exchange(request, payload, self._receive)

    def pread(self, handle: int, count: int, offset: int) -> bytearray:
        """Read *count* bytes of the disk from *offset*.  Raises as `call` does."""
        data = bytearray(count)
        self._exchange((PREAD, handle, 0, count, offset), b"", lambda: self._receive_into(data))
        return data

    def _exchange(
        self,
        request: tuple[int, int, int, int, int],
        payload: bytes | memoryview,
        receive: Callable[[], T],
    ) -> T:
        mine = Lock()
        mine.acquire()
        with self._sending:
            before, self._last = self._last, mine
            self._send(REQUEST.pack(len(payload), *request), payload)
        with before:
            try:
                if self._gone:
                    raise HelperGone(_CLOSED)
                return receive()
            except (HelperGone, OSError) as error:
                self._gone = True  # the next thread would start reading in the middle of a reply
                raise HelperGone(str(error)) from None
            finally:
                mine.release()

    def _send(self, header: bytes, payload: bytes | memoryview) -> None:
        """Send a request.  A failure is only noted here; reading the reply will report it."""
        try:
            if not payload:
                self._stream.sendall(header)
                return
            sent = self._stream.sendmsg([header, payload])
            if sent < len(header) + len(payload):
                self._stream.sendall((header + payload)[sent:])
        except OSError as error:
            log.debug("a request cannot be sent: %s", error)
            self._gone = True

    # -- receiving ----------------------------------------------------------------------

    def _receive(self, max_payload: int = _MAX_PAYLOAD) -> tuple[int, bytes]:
        while True:
            length, code, value = REPLY.unpack(self._read(REPLY.size))
            if length > max_payload:
                self._refuse(length)
            payload = self._read(length)
            if not code:
                return value, payload
            self._raise_or_notice(code, value, payload)

    def _receive_into(self, data: bytearray) -> None:
        """Receive the reply to a read; the data goes straight to its place, without a copy."""
        header = bytearray(REPLY.size)
        if not self._unread:
            got = self._stream.recvmsg_into([header, data])[0] - REPLY.size
            length, code, _ = REPLY.unpack(header)
            if got >= 0 and not code and length == len(data):
                if got < length:
                    self._fill(memoryview(data)[got:])
                return
            # It is an error or a notice: keep what has come of it, and perhaps of what follows.
            self._unread = bytes(header + data)[: REPLY.size + got]
            if not self._unread:
                raise HelperGone(_CLOSED)
        _, payload = self._receive(max(len(data), _MAX_PAYLOAD))
        if len(payload) != len(data):
            raise HelperGone(f"it answered a read of {len(data)} bytes with {len(payload)}")
        data[:] = payload

    def _refuse(self, length: int) -> None:
        """Drop a payload that is too long.  Raises `CallbackFailed`."""
        if length > _MAX_DISCARDED:
            raise HelperGone(f"it sent a reply of {length} bytes")
        left = length
        while left:
            left -= len(self._read(min(left, _PIECE)))
        raise CallbackFailed(errno.EIO, too_long(length))

    def _raise_or_notice(self, code: int, value: int, payload: bytes) -> None:
        """Raise the error that a reply carries, or do what a notice asks for."""
        text = payload.decode(errors="backslashreplace").rstrip("\n")
        if code != NOTICE:
            raise CallbackFailed(code, text)
        if value == NOTICE_DEBUG:
            log.debug("%s", text)
        elif value == NOTICE_SHUTDOWN:
            self._on_shutdown()
        else:
            raise HelperGone(f"it sent an unknown notice, {value}")

    def _read(self, count: int) -> bytes:
        data = bytearray(count)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        if self._unread:
            ready = self._unread[: len(view)]
            self._unread = self._unread[len(ready) :]
            view[: len(ready)] = ready
            view = view[len(ready) :]
        while view:
            got = self._stream.recv_into(view)
            if not got:
                raise HelperGone(_CLOSED)
            view = view[got:]
