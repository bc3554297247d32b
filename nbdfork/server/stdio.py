"""One client on standard input and output (`-s`), for inetd and the like.

Whatever else the program or a plugin prints must never reach the client, so the descriptors
0 and 1 are moved out of the way, and 0, 1 (and 2, which inetd makes the same connection) are
led to where they do no harm.
"""

import os
import select
import socket
import stat
from collections.abc import Collection, Iterable

from nbdfork.server.errors import StartupError
from nbdfork.types import Buffer


def take_over(closed: Collection[int]) -> "socket.socket | PipeStream":
    """Return the client that is on stdin and stdout, and redirect these two.

    *closed*: the standard descriptors that were closed when the process began, and lead to the
    null device since.  Raises `StartupError` if there can be no client.
    """
    if 0 in closed or 1 in closed:
        raise StartupError("-s serves a client on stdin and stdout, but one of them is not open")
    if os.isatty(0):
        raise StartupError("-s serves a client on stdin and stdout, but this is a terminal")
    one_socket = _same(0, 1) and stat.S_ISSOCK(os.fstat(0).st_mode)
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if _same(sink, 2):
        os.dup2(null, 2)
    os.dup2(2, 1)
    os.close(null)
    if one_socket:
        os.close(sink)
        return socket.socket(fileno=source)
    return PipeStream(source, sink)


def is_null(fd: int) -> bool:
    """Return whether *fd* is the null device."""
    return os.path.samestat(os.fstat(fd), os.stat(os.devnull))


def _same(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


class PipeStream:
    """Two one-way descriptors that look like a connected socket; see `socket.socket`."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self.sink = sink  # poll(2) tells of it that nobody reads it any more
        self._timeout: float | None = None
        self._stop_seen, self._stop = os.pipe()
        self._poll = select.poll()
        self._poll.register(source, select.POLLIN)
        self._poll.register(self._stop_seen, select.POLLIN)

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Read some bytes; 0 is the end, or that `shutdown` was called.

        *flags* may be `socket.MSG_DONTWAIT`.
        """
        timeout = None if self._timeout is None else self._timeout * 1000
        ready = dict(self._poll.poll(0 if flags & socket.MSG_DONTWAIT else timeout))
        if not ready:
            raise BlockingIOError if flags & socket.MSG_DONTWAIT else TimeoutError("timed out")
        if self._source in ready:
            return os.readv(self._source, [buffer])
        return 0

    def sendmsg(self, buffers: Iterable[Buffer], /) -> int:
        return os.writev(self.sink, list(buffers))

    def settimeout(self, value: float | None, /) -> None:
        self._timeout = value

    def shutdown(self, how: int, /) -> None:
        """SHUT_RD: once nothing is left to read, reads return 0 instead of waiting."""
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            os.write(self._stop, b"x")
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._break_sink()

    def _break_sink(self) -> None:
        """Let the client see the end, and writes fail; another thread may be in one."""
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, self.sink, inheritable=False)
        os.close(writer)

    def fileno(self) -> int:
        return self._source

    def close(self) -> None:
        for fd in (self._source, self.sink, self._stop_seen, self._stop):
            os.close(fd)
