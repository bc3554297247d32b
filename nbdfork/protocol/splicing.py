"""Large payloads moved from a socket to a file by the kernel, through a pipe, without a copy here.

A payload is in the pipe as a whole before a byte of it is written: a client that leaves in the
middle has written nothing.  What cannot be moved, or written, from the pipe is read from it, and
goes the usual way.
"""

import errno
import fcntl
import os
import select

from nbdfork.protocol.errors import CutShort

MOST = 1024 * 1024
"""The largest payload that is moved: so much a pipe can hold if the system allows it."""

_UNABLE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM})
_NONBLOCK = 2  # SPLICE_F_NONBLOCK, linux/splice.h


class Unmoved(Exception):
    """A payload does not get through the pipe; what did is in there."""


class Pipe:
    """A pipe from the socket *source* that holds one payload at a time.

    Raises OSError if there can be none that is large enough.
    """

    def __init__(self, source: int) -> None:
        self._source = source
        self._poll = select.poll()
        self._poll.register(source, select.POLLIN)
        self.filled = 0
        """How many bytes are in the pipe."""
        self.is_of_use = True
        """Whether the file is of a kind that a pipe can be written to."""
        self._open()

    def _open(self) -> None:
        self._end, self._begin = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(self._begin, fcntl.F_SETPIPE_SZ, MOST)
        except OSError:
            self.close()
            raise

    def fill(self, count: int, timeout: float | None) -> None:
        """Move *count* bytes from the socket into the empty pipe.

        It is waited *timeout* seconds for some of them, or for ever.  Raises `Unmoved` if that does
        not work, `CutShort` if the bytes do not come.
        """
        has_come = False  # though nothing could be moved before
        while self.filled < count:
            try:
                moved = os.splice(self._source, self._begin, count - self.filled, flags=_NONBLOCK)
            except BlockingIOError:
                if has_come:  # it is the pipe that is full, of many small pieces
                    raise Unmoved from None
                has_come = bool(self._poll.poll(None if timeout is None else timeout * 1000))
                if not has_come:
                    raise CutShort("timed out") from None
            except OSError as error:
                if error.errno in _UNABLE:
                    raise Unmoved from error
                raise CutShort(str(error)) from error
            else:
                if not moved:
                    if self.filled:
                        raise CutShort("the client left in the middle of a message")
                    raise CutShort("the client left before the data it announced")
                self.filled += moved
                has_come = False

    def write(self, fd: int, offset: int) -> int:
        """Write what is in the pipe to a file at *offset*; return how much of it could be written.

        The rest is still in the pipe; `read` has it.
        """
        written = 0
        try:
            while self.filled:
                done = os.splice(self._end, fd, self.filled, offset_dst=offset + written)
                if not done:
                    break
                written += done
                self.filled -= done
        except OSError as error:  # who writes the rest is told
            self.is_of_use = error.errno not in _UNABLE
        return written

    def read(self, view: memoryview) -> int:
        """Read what is in the pipe into memory that is as large, at least; return its length."""
        got = 0
        while self.filled:
            done = os.readv(self._end, [view[got : got + self.filled]])
            got += done
            self.filled -= done
        return got

    def close(self) -> None:
        os.close(self._end)
        os.close(self._begin)
