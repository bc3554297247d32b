"""Ranges of a disk that are held while they are worked at, by one worker or thread at a time.

The kernel releases what a worker held that has died: the ranges are those of locks on a file.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from nbdfork.plugin import SharedBuffer


class SharedRanges:
    """Made before the workers are forked, like all that they share."""

    def __init__(self) -> None:
        self._fd = SharedBuffer(0, name="ranges").fd
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._changed = Condition()  # another thread may have held it during the fork
        self._held: list[tuple[int, int]] = []  # by this process, to which the file's locks belong

    @contextmanager
    def held(self, start: int, end: int) -> Iterator[None]:
        """Hold what is from *start* to *end*, which is not empty, while what is within is done.

        Raises OSError with EDEADLK if two workers wait for each other: hold one range at a time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_free(start, end))
            self._held.append((start, end))
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, end - start, start)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, end - start, start)
        finally:
            with self._changed:
                self._held.remove((start, end))
                self._changed.notify_all()

    def _is_free(self, start: int, end: int) -> bool:
        return all(end <= first or last <= start for first, last in self._held)
