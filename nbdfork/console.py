"""Standard error, written to without waiting for ever for somebody who reads it.

It may be a pipe to a program that has stopped, or a terminal that is held.  A process that waited
there would serve nobody.  So after a while messages are lost instead; all processes of a server
count them together, and whoever can write again says first how many they were.
"""

import io
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PATIENCE_SECONDS = 1.0
"""So long a message waits for room, unless others have waited in vain since there was some."""

Note = Callable[[int], str]
"""Returns the line that says how many messages were lost."""


class Console(io.RawIOBase):
    """The descriptor *fd*, which it leaves open when it is closed."""

    def __init__(self, fd: int, note: Note) -> None:
        super().__init__()
        self._fd = fd
        self._note = note
        self._lost = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_torn = False  # a line was cut off
        self._socket: socket.socket | None = None
        self._own = -1
        kind = os.fstat(fd).st_mode
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
            # Not to block is a property of the open file, which others have as well; so it is
            # opened once more, unless it is another user's.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            with suppress(OSError):
                self._own = os.open(f"/proc/self/fd/{fd}", flags)

    @property
    def name(self) -> str:
        return "<stderr>"  # as Python calls its own

    def fileno(self) -> int:
        return self._fd

    def descriptors(self) -> list[int]:
        """Return those that it needs beyond the one that it writes to."""
        own = [] if self._own < 0 else [self._own]
        return [self._lost, *own, *([self._socket.fileno()] if self._socket else [])]

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write a message, or count it as lost."""
        message = bytes(data)
        if message:
            self._write(message, 1)
        return len(message)

    def flush(self) -> None:
        """Say what was lost, if that is possible by now."""
        if not self.closed:
            self._write(b"", 0)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        os.close(self._lost)
        if self._socket is not None:
            self._socket.close()
        if self._own >= 0:
            os.close(self._own)

    def _write(self, message: bytes, count: int) -> None:
        lost = self._take_lost()
        patience = PATIENCE_SECONDS
        if lost:
            message = f"{self._note(lost)}\n".encode(errors="backslashreplace") + message
            patience = 0.0
        if not self._put(message, patience):
            os.eventfd_write(self._lost, lost + count)

    def _take_lost(self) -> int:
        try:
            return os.eventfd_read(self._lost)
        except BlockingIOError:
            return 0

    def _put(self, message: bytes, patience: float) -> bool:
        """Write all of *message*; return False if it has to wait longer than *patience* seconds."""
        if self._is_torn and message:
            message = b"\n" + message
        rest = memoryview(message)
        deadline = time.monotonic() + patience
        while rest:
            try:
                written = self._write_some(rest)
            except BlockingIOError:
                if not self._has_room(deadline - time.monotonic()):
                    break
            except OSError:  # nobody will ever read it, or the disk is full
                break
            else:
                self._is_torn = True
                rest = rest[written:]
        else:
            self._is_torn = False
        return not rest

    def _write_some(self, data: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._own >= 0:
            return os.write(self._own, data)
        if not self._has_room(0):
            raise BlockingIOError
        return os.write(self._fd, data[: select.PIPE_BUF])  # so much has room, if we are alone

    def _has_room(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(max(0.0, seconds) * 1000))


class _Stream(io.TextIOWrapper):
    """A console for texts, line by line."""

    def __init__(self, note: Note) -> None:
        super().__init__(Console(2, note), "utf-8", "backslashreplace", line_buffering=True)


def descriptors() -> list[int]:
    """Return those that standard error needs beyond its own."""
    console = sys.stderr.buffer if isinstance(sys.stderr, _Stream) else None
    return console.descriptors() if isinstance(console, Console) else []


def take_stderr(note: Note) -> None:
    """Let all that Python writes to standard error from now on go through a `Console`.

    To be called again when the descriptor leads elsewhere.  What a program has put in the place of
    `sys.stderr` is left alone.
    """
    if isinstance(sys.stderr, _Stream):
        sys.stderr.close()
    elif sys.stderr is not sys.__stderr__:
        return
    sys.stderr = _Stream(note)
