"""SFTP, version 3, on a pair of pipes to ssh(1): requests and replies; it knows nothing of disks.

The protocol is draft-ietf-secsh-filexfer-02, with the extension fsync@openssh.com (OpenSSH's
PROTOCOL file, section 4).  Each packet has its length, a type and, except for the first two, the
number of the request; replies may come in any order.  Many threads may have requests under way:
each sends its own, and they take turns at receiving.
"""

import contextlib
import errno
import itertools
import os
import select
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

from .._link.reconnecting import LinkLost
from .._link.texts import shown
from .._link.timeout import Patience
from .._link.turns import PendingReply, Turns
from .strings import extensions, packed, taken

MAX_DATA = 32 * 1024
"""What every server can read or write at once, in bytes (section 3); more is no faster."""

READ = 0x01
WRITE = 0x02
CREATE = 0x08
TRUNCATE = 0x10
"""Flags of `Sftp.open` (section 6.3)."""

_INIT, _VERSION = 1, 2
_OPEN, _READ, _WRITE, _FSTAT, _FSETSTAT = 3, 5, 6, 8, 10
_STATUS, _HANDLE, _DATA, _ATTRS = 101, 102, 103, 105
_EXTENDED = 200

_OK, _EOF = 0, 1
_ERRNO = {2: errno.ENOENT, 3: errno.EACCES, 6: errno.EIO, 7: errno.EIO, 8: errno.EOPNOTSUPP}
_HAS_SIZE, _HAS_PERMISSIONS = 0x01, 0x04

_LOST = "the connection is lost"

_FSYNC = b"fsync@openssh.com"

_MAX_PACKET = 256 * 1024
"""The longest packet taken from a server, in bytes; the replies asked for are far shorter."""

_BUFFER = 1024 * 1024


_MOST_HANDLE = 256
"""The longest handle that a server may give, in bytes (section 6.3)."""

_LEAST_VERSION = 3

_MOST_PARTS = 1024
"""How many pieces of memory one system call sends (IOV_MAX of Linux)."""

_SHORT = 0.05
"""Seconds that are waited for before it is looked whether anybody still waits for the result."""


class NotSftp(Exception):
    """What was received is not SFTP."""


class Attributes(NamedTuple):
    """What is known about a file; None for what the server does not tell."""

    size: int | None
    permissions: int | None


class Call(PendingReply):
    """A request under way, and later its reply.

    The data of a READ is put into *target*, and *count* is its length in bytes.
    """

    def __init__(self, target: memoryview | None = None) -> None:
        super().__init__()
        self.target = target
        self.count = 0
        self.kind = 0
        self.body = b""


class _Request(NamedTuple):
    """What is sent: *body*, and *data* after it; and where the data of a READ is to be put."""

    body: bytes
    data: memoryview | None = None
    target: memoryview | None = None


class Sftp:
    """A conversation with an SFTP server over two pipes, which it does not own.

    It ends when the server is silent while something is awaited, and when nobody waits for the
    result any more: see *patience*.  The methods raise `LinkLost` if it ends, OSError with
    ESHUTDOWN if nobody waits, and OSError for what the server refuses.
    """

    def __init__(self, to_server: int, from_server: int, patience: Patience) -> None:
        os.set_blocking(to_server, False)
        os.set_blocking(from_server, False)
        self._patience = patience
        self._to_server = to_server
        self._from_server = from_server
        self._sending = threading.Lock()
        self._turns = Turns()
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count()
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0
        self.lost: OSError | None = None
        """Why nothing more can be received; None while it can."""

    # -- requests -----------------------------------------------------------------------

    def start(self) -> None:
        """Exchange versions, and learn what the server can do."""
        hello = Call()
        self._calls[-1] = hello  # it has no number
        self._send([memoryview(struct.pack(">IBI", 5, _INIT, 3))])
        self._turns.wait(hello, self._receive)
        if hello.kind == 0:
            raise self._ended()
        version = int.from_bytes(hello.body[:4], "big")
        if version < _LEAST_VERSION:
            raise LinkLost(f"the server speaks version {version} of SFTP, and not {_LEAST_VERSION}")
        self.can_fsync = (_FSYNC, b"1") in extensions(hello.body)

    def open(self, path: bytes, flags: int, mode: int) -> bytes:
        """Open the file *path*, which is relative to the user's home directory; return a handle.

        *mode* are the permissions of a file that is created.
        """
        attributes = struct.pack(">II", _HAS_PERMISSIONS, mode)
        body = packed(path) + struct.pack(">I", flags) + attributes
        [call] = self._begin(_OPEN, [_Request(body)])
        handle, _ = taken(self._finish(call, _HANDLE))
        if not 0 < len(handle) <= _MOST_HANDLE:
            raise OSError(errno.EIO, _nonsense(f"a handle of {len(handle)} bytes"))
        return handle

    def attributes(self, handle: bytes) -> Attributes:
        """Return what the server tells about an open file."""
        [call] = self._begin(_FSTAT, [_Request(packed(handle))])
        body = self._finish(call, _ATTRS)
        try:
            (flags,) = struct.unpack_from(">I", body)
            size = struct.unpack_from(">Q", body, 4)[0] if flags & _HAS_SIZE else None
            at = 4 + (8 if flags & _HAS_SIZE else 0) + (8 if flags & 0x02 else 0)  # uid and gid
            has_permissions = flags & _HAS_PERMISSIONS
            permissions = struct.unpack_from(">I", body, at)[0] if has_permissions else None
        except struct.error:
            raise OSError(errno.EIO, _nonsense("a reply about the file that is cut off")) from None
        return Attributes(size, permissions)

    def set_size(self, handle: bytes, size: int) -> None:
        """Truncate an open file to *size* bytes, or extend it with zeroes."""
        body = packed(handle) + struct.pack(">IQ", _HAS_SIZE, size)
        [call] = self._begin(_FSETSTAT, [_Request(body)])
        self._finish(call, _STATUS)

    def fsync(self, handle: bytes) -> None:
        """Return when everything written to the file is on stable storage."""
        [call] = self._begin(_EXTENDED, [_Request(packed(_FSYNC) + packed(handle))])
        self._finish(call, _STATUS)

    def read(self, handle: bytes, data: memoryview, offset: int) -> int:
        """Fill *data* from *offset*; return how many bytes came before the end of the file."""
        parts = range(0, len(data), MAX_DATA)
        requests = []
        for start in parts:
            target = data[start : start + MAX_DATA]
            body = struct.pack(">QI", offset + start, len(target))
            requests.append(_Request(packed(handle) + body, target=target))
        calls = self._begin(_READ, requests)
        self._wait_for(calls)
        for start, call in zip(parts, calls, strict=True):
            part = data[start : start + MAX_DATA]
            count = self._count(call)
            while 0 < count < len(part):  # a server may return less than it was asked for
                body = struct.pack(">QI", offset + start + count, len(part) - count)
                request = _Request(packed(handle) + body, target=part[count:])
                [more] = self._begin(_READ, [request])
                self._wait_for([more])
                gained = self._count(more)
                if not gained:
                    break
                count += gained
            if count < len(part):
                return start + count
        return len(data)

    def _count(self, call: Call) -> int:
        """Return how many bytes a READ returned: 0 at the end of the file."""
        if call.kind == _DATA:
            return call.count
        if _status(call) == _EOF:
            return 0
        self._check(call, _DATA)
        raise AssertionError("a reply to READ is data or an error")

    def write(self, handle: bytes, data: memoryview, offset: int) -> None:
        """Write all of *data* at *offset*."""
        requests = []
        for start in range(0, len(data), MAX_DATA):
            part = data[start : start + MAX_DATA]
            body = struct.pack(">QI", offset + start, len(part))
            requests.append(_Request(packed(handle) + body, part))
        calls = self._begin(_WRITE, requests)
        self._wait_for(calls)
        for call in calls:
            self._check(call, _STATUS)

    # -- sending ------------------------------------------------------------------------

    def _begin(self, kind: int, requests: Sequence[_Request]) -> list[Call]:
        """Send requests of one *kind*, all at once: who reads them is woken once."""
        calls, parts = [], []
        head = b""
        for body, data, target in requests:
            call = Call(target)
            calls.append(call)
            number = next(self._numbers) & 0xFFFFFFFF
            self._calls[number] = call
            length = 5 + len(body) + (0 if data is None else len(data))
            head += struct.pack(">IBI", length, kind, number) + body
            if data is not None:
                parts += [memoryview(head), data]
                head = b""
        self._send([*parts, memoryview(head)] if head else parts)
        return calls

    def _send(self, parts: list[memoryview]) -> None:
        try:
            with self._sending:
                while parts and self.lost is None:
                    sent = self._write(parts)
                    while parts and sent >= len(parts[0]):
                        sent -= len(parts.pop(0))
                    if parts:
                        parts[0] = parts[0][sent:]
        except OSError as error:
            self._lose(error)
        if self.lost is not None:
            self._end_all()  # also for requests that began after the loss was noticed

    def _write(self, parts: list[memoryview]) -> int:
        while True:
            try:
                return os.writev(self._to_server, parts[:_MOST_PARTS])
            except BlockingIOError:
                self._wait_until(self._to_server, select.POLLOUT)

    # -- receiving ----------------------------------------------------------------------

    def _finish(self, call: Call, expected: int) -> bytes:
        self._turns.wait(call, self._receive)
        self._check(call, expected)
        return call.body

    def _wait_for(self, calls: list[Call]) -> None:
        """Wait for all of *calls*, so that nothing is written to their memory afterwards."""
        for call in calls:
            self._turns.wait(call, self._receive)

    def _check(self, call: Call, expected: int) -> None:
        """Raise OSError unless the reply is of the type *expected*, or a good status."""
        if call.kind == 0:
            raise self._ended()
        code = _status(call)
        if code not in (None, _OK):
            text = shown(taken(call.body[4:])[0]) or f"status {code}"
            raise OSError(_ERRNO.get(code or 0, errno.EIO), f"the server says: {text}")
        if call.kind != expected or (expected == _STATUS and code is None):
            raise OSError(errno.EIO, _nonsense(f"a reply of the unexpected type {call.kind}"))

    def _ended(self) -> OSError:
        """Return why the conversation has ended, for one more thread."""
        lost = self.lost or LinkLost(_LOST)
        if isinstance(lost, LinkLost):
            return LinkLost(lost.strerror or "", lost.errno or errno.EIO)
        return OSError(lost.errno, lost.strerror)

    def _receive(self) -> None:
        """Receive what has come, or wait for it, and finish the calls whose replies are here."""
        try:
            if self._end == len(self._buffer) or self._start == self._end:
                rest = self._buffer[self._start : self._end]
                self._buffer[: len(rest)] = bytes(rest)
                self._start, self._end = 0, len(rest)
            count = self._read()
            if not count:
                raise LinkLost(_LOST)
            self._end += count
            while self._take_packet():
                pass
        except OSError as error:
            self._lose(error)
            self._end_all()
        except (NotSftp, struct.error) as error:
            self._lose(LinkLost(f"{_LOST}: {_nonsense(str(error))}"))
            self._end_all()

    def _read(self) -> int:
        if self.lost is not None:  # perhaps while it was sent
            return 0
        while True:
            with contextlib.suppress(BlockingIOError):
                return os.readv(self._from_server, [self._buffer[self._end :]])
            self._wait_until(self._from_server, select.POLLIN)

    def _wait_until(self, fd: int, event: int) -> None:
        """Wait for *event* of a pipe.  Raises OSError if it does not come."""
        timeout = self._patience.timeout
        poll = select.poll()
        poll.register(fd, event)
        if poll.poll(1000 * min(_SHORT, timeout)):
            return
        if timeout <= _SHORT or not self._patience.wait(timeout - _SHORT, {fd: event}):
            text = f"the far end has been silent for {timeout:g} s"
            raise LinkLost(f"{_LOST}: {text}", errno.ETIMEDOUT)

    def _take_packet(self) -> bool:
        """Take a packet out of the buffer; return False if none is complete."""
        available = self._end - self._start
        if available < 5:
            return False
        length, kind = struct.unpack_from(">IB", self._buffer, self._start)
        if not 5 <= length <= _MAX_PACKET:
            begin = shown(bytes(self._buffer[self._start : min(self._end, self._start + 16)]))
            raise NotSftp(f"a packet of {length} bytes, which is not SFTP, and begins '{begin}'")
        if available < 4 + length:
            return False
        body = self._buffer[self._start + 5 : self._start + 4 + length]
        self._start += 4 + length
        number = -1 if kind == _VERSION else struct.unpack_from(">I", body)[0]
        call = self._calls.pop(number, None)
        if call is None:
            raise NotSftp("a reply to a request that was never made")
        try:
            _fill(call, kind, body if kind == _VERSION else body[4:])
        finally:
            self._turns.finish(call)
        return True

    def _lose(self, why: OSError) -> None:
        if self.lost is None:
            if not isinstance(why, LinkLost) and why.errno != errno.ESHUTDOWN:
                why = LinkLost(f"{_LOST}: {why.strerror}")
            self.lost = why

    def _end_all(self) -> None:
        """Finish every call without a reply."""
        while self._calls:
            try:
                _, call = self._calls.popitem()
            except KeyError:  # another thread took the last one
                return
            self._turns.finish(call)


def _fill(call: Call, kind: int, body: memoryview) -> None:
    """Store the reply in *call*, whose kind stays 0 if the reply makes no sense."""
    if kind == _DATA:
        (call.count,) = struct.unpack_from(">I", body)
        data = body[4:]
        if call.target is None or not 0 < call.count <= min(len(data), len(call.target)):
            raise NotSftp(f"{call.count} bytes for a request that was not for as many")
        call.target[: call.count] = data[: call.count]
    else:
        call.body = bytes(body)
    call.kind = kind


def _status(call: Call) -> int | None:
    """Return the reply's status code; None if it is not a status."""
    if call.kind != _STATUS or len(call.body) < 4:
        return None
    return int.from_bytes(call.body[:4], "big")


def _nonsense(what: str) -> str:
    return f"the far end says nonsense: {what}"
