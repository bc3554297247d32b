"""A thread that has parts of a disk cached ahead of need, for the filters readahead and scan.

It is one client's, works on the disk below as that client would, and ends with it.
"""

import logging
from collections.abc import Callable
from threading import Condition, Thread

from nbdfork.plugin import Export, Filter, Plugin, Support, ThreadModel

log = logging.getLogger(__name__)


def is_possible(filter: Filter, next: Export, name: str) -> bool:
    """Return whether *next* can be prefetched; if not, warn."""
    if _strictest(filter.next) is not ThreadModel.PARALLEL:
        log.warning(
            "%s: it does nothing, as the disk below carries out one request at a time", name
        )
    elif next.can_cache() is not Support.NATIVE:
        log.warning("%s: it does nothing over a disk that has no cache: add --filter=cache", name)
    else:
        return True
    return False


def _strictest(plugin: Plugin) -> ThreadModel:
    model = plugin.thread_model()
    return min(model, _strictest(plugin.next)) if isinstance(plugin, Filter) else model


class Prefetcher:
    """Caches ranges of *next* one after another, in a thread: *choose* says which, or None for now.

    It is called with the lock held, again each time that `poke` is.
    """

    def __init__(self, next: Export, choose: Callable[[], tuple[int, int] | None]) -> None:
        self._next = next
        self._choose = choose
        self._changed = Condition()
        self._is_over = False
        self._busy = (0, 0)  # start and end of what is being cached
        self._thread: Thread | None = None

    def poke(self, change: Callable[[], object]) -> None:
        """Call *change* with the lock held, and look again for something to do."""
        with self._changed:
            change()
            if self._thread is None:
                self._thread = Thread(target=self._run, name="prefetch", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_for(self, start: int, end: int) -> None:
        """Wait while what is between *start* and *end* is being cached."""
        with self._changed:
            self._changed.wait_for(lambda: end <= self._busy[0] or self._busy[1] <= start)

    def _run(self) -> None:
        while (part := self._next_part()) is not None:
            count, offset = part
            try:
                self._next.cache(count, offset)
            except OSError as error:  # whoever reads it is told
                log.debug("prefetching %d bytes at %d: %s", count, offset, error)
            with self._changed:
                self._busy = (0, 0)
                self._changed.notify_all()

    def _next_part(self) -> tuple[int, int] | None:
        with self._changed:
            while not self._is_over:
                if (part := self._choose()) is not None:
                    self._busy = (part[1], part[1] + part[0])
                    return part
                self._changed.wait()
            return None

    def close(self) -> None:
        """End the thread; what it is at is finished."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
