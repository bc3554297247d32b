"""Which files the system may have lost writes of, remembered for all clients of a server.

Linux tells of a write that it could not carry out once to each open file, and takes it for done
from then on: a file that is opened later, by a worker for its client, is told nothing.  That
client may be the one whose write it was, so it is told here.
"""

import errno
import logging
import os
import stat
from struct import Struct

from nbdfork.plugin.shared import SharedBuffer, SharedLock

log = logging.getLogger(__name__)

_RECORD = Struct("=QQQ")  # two numbers that identify a file, and how often writes were lost
_USED = Struct("=Q")
_MOST = 100
"""So many files are told apart; what comes after that is counted for all others together."""

_OTHERS = (0, 0)
_NOTHING_LOST = frozenset({errno.EINVAL, errno.EROFS, errno.EBADF})  # it was not even tried

File = tuple[int, int]


class LostWrites:
    """The files of a plugin that a flush has failed for; make it in `Plugin.get_ready`."""

    def __init__(self) -> None:
        size = _USED.size + (_MOST + 1) * _RECORD.size
        self._table = SharedBuffer(size, name="lost-writes", bound=False).view()
        self._lock = SharedLock(name="lost-writes")

    def _times(self, file: File) -> int:
        """Return how often writes to *file* may have been lost."""
        _, times = self._find(file)
        return times

    def _add(self, file: File, known: int) -> int:
        """Writes may have been lost, unless that is what has been noted since there were *known*
        times; return how many there are now.
        """
        with self._lock:
            place, times = self._find(file)
            if times == known:
                times += 1
                used = self._used()
                if place == used and used == _MOST:
                    file = _OTHERS
                self._pack(place, file, times)
                _USED.pack_into(self._table, 0, max(used, place + 1))
                log.error(
                    "what was written since the last flush may be lost: until the server is started"
                    " anew, clients that come are told so, too, once each"
                )
            return times

    def _find(self, file: File) -> tuple[int, int]:
        """Return the place of *file* in the table, or that of the next one, and its times."""
        used = self._used()
        for place in range(used):
            *found, times = _RECORD.unpack_from(self._table, _USED.size + place * _RECORD.size)
            if tuple(found) in (file, _OTHERS):
                return place, times
        return used, 0

    def _used(self) -> int:
        return min(int(_USED.unpack_from(self._table)[0]), _MOST + 1)

    def _pack(self, place: int, file: File, times: int) -> None:
        _RECORD.pack_into(self._table, _USED.size + place * _RECORD.size, *file, times)


class Watch:
    """What one client has been told of the file *fd*."""

    def __init__(self, lost: LostWrites, fd: int) -> None:
        self._lost = lost
        status = os.fstat(fd)
        is_block = stat.S_ISBLK(status.st_mode)
        self._file = (1, status.st_rdev) if is_block else (status.st_dev, status.st_ino)
        self._told = 0

    def failed(self, error: OSError) -> None:
        """The client is about to be told *error*, with which a flush has failed."""
        if error.errno not in _NOTHING_LOST:
            self._told = self._lost._add(self._file, self._told)

    def check(self) -> None:
        """A flush has succeeded.  Raises OSError with EIO if the client must be told all the same,
        because one has failed that it knows nothing of.
        """
        times = self._lost._times(self._file)
        if times > self._told:
            self._told = times
            raise OSError(errno.EIO, "an earlier flush has failed: writes may be lost")
