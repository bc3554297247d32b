"""Requests that a far end has under way by the dozen, begun and ended in one thread.

An export that waits for another computer can have reads and writes of one client there at the same
time without a thread for each: it begins them, and takes what comes when it comes.  That is worth
its code where the far end's protocol has many requests on one connection.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeAlias

from nbdfork.types import Buffer


class Unfinished(Exception):
    """A request of a `Pipeline` cannot be carried out in this way: the export is to be called."""


Ended: TypeAlias = Callable[[Buffer | Exception | None], None]
"""Is called with what has become of a request: the data of a read, None for a write that was
carried out, an OSError if it failed, or `Unfinished`.

Data are used up when it returns: their memory may be used for another request.
"""


class Pipeline(ABC):
    """The reads and writes of one client that are under way at a far end.

    One thread calls these methods, and none of them blocks.  Meanwhile other threads call those
    of the export, for all else and for requests that are `Unfinished`; what they wait for may come
    through `proceed`, too.
    """

    @abstractmethod
    def read(self, count: int, offset: int, ended: Ended) -> bool:
        """Begin to read; *ended* is called later, in `proceed`.

        Return False if this cannot be done here: then the export's `pread` is called.
        """

    @abstractmethod
    def write(self, data: memoryview, offset: int, flags: int, ended: Ended) -> bool:
        """Begin to write *data*, which stay as they are; as `read`, and *flags* as in `pwrite`."""

    @abstractmethod
    def awaits(self) -> Mapping[int, int]:
        """Return the descriptors to be waited for, and the events of poll(2) of each.

        They are waited for at once.  The mapping is not changed later: if others are to be waited
        for, it is another one.
        """

    @abstractmethod
    def proceed(self, ready: Mapping[int, int]) -> None:
        """Take what has come, and tell of each request that has ended.

        *ready* are those of the descriptors that are ready, and what for; perhaps none.
        """

    @abstractmethod
    def close(self) -> None:
        """Nothing is under way any more, and nothing will be: threads call the export now."""


__all__ = ["Ended", "Pipeline", "Unfinished"]
