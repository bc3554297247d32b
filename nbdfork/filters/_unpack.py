"""The life cycle of the filters that serve what is in compressed data; they differ in `learn` and
`serve`.
"""

import logging
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from nbdfork.filters._blocks import BlocksExport, Disk
from nbdfork.filters._decoded import Decoded, Recorder, Share
from nbdfork.filters._source import IndexStore, Source
from nbdfork.plugin import Export, Filter, Needs, Parameter, parse

log = logging.getLogger(__name__)


class Facts(NamedTuple):
    """What a format wants to know of a disk beyond its blocks: *small*, and what *read* returns of
    the rest for a count and an offset.
    """

    small: bytes
    read: Callable[[int, int], bytes]


_FIRST_WORD, _MORE_WORDS = 10, 60
"""After how many seconds of a pass, and how often then, the log is told how far it has come."""

_PLACE = struct.Struct("<Q")  # of the disk's entries in the table of what is kept


def scratch_parameter() -> Parameter[int]:
    """Return the parameter of a filter or a plugin that bounds the temporary file."""
    return Parameter(
        parse.size,
        default=4 * 1024**3,
        metavar="SIZE",
        help="how much of what was decoded all clients share in a temporary file",
    )


def salvage_parameter() -> Parameter[bool]:
    """Return the parameter of a filter or a plugin that has damaged data served."""
    return Parameter(
        parse.boolean,
        default=False,
        metavar="true|false",
        help="serve what can be decoded of damaged data, though it may be wrong",
    )


class UnpackFilter(Filter, ABC):
    """Serve what is in the compressed data below, read-only.

    The first client of a disk has it learnt, all others use what is known then, and what any of
    them has had decoded.
    """

    opens_read_only = True

    @abstractmethod
    def scratch(self) -> int:
        """Return how many bytes of decoded data may be kept in a temporary file."""

    @abstractmethod
    def learn(self, source: Source, recorder: Recorder) -> tuple[Disk, bytes, list[bytes]]:
        """Return the disk that is in *source*, and two kinds of facts about it for `serve`: those
        that each client has in memory, and those that it reads in parts.

        What comes out meanwhile from the disk's beginning on is given to *recorder*.
        """

    @abstractmethod
    def serve(self, source: Source, disk: Disk, share: Share, facts: Facts) -> BlocksExport:
        """Return the *disk* that `learn` has found in *source*, with a *share* in what is kept."""

    def get_ready(self) -> None:
        self._store = IndexStore()
        self._decoded = Decoded(self.scratch())

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        name = f"export {export_name!r}" if export_name else "the disk below"
        return self.unpack(next, name)

    def unpack(self, next: Export, name: str) -> BlocksExport:
        """Return the disk that is in *next*, which is called *name* in messages.

        Raises OSError if there is none.
        """
        source = Source(next, name)
        found = self._store.get(source, lambda: self._learn(source))
        (place,) = _PLACE.unpack_from(found.facts)
        disk, facts = Disk.load(found.facts[_PLACE.size :])
        share = Share(self._decoded, place, disk.size)
        return self.serve(source, disk, share, Facts(facts, found.bulk))

    def _learn(self, source: Source) -> tuple[bytes, list[bytes]]:
        recorder = Recorder(self._decoded, _Progress(source).tick)
        disk, facts, bulk = self.learn(source, recorder)
        return _PLACE.pack(recorder.publish(disk.size)) + disk.dump(facts), bulk


class _Progress:
    """Tells the log how far a pass over *source* has come, if it takes long."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._begun = monotonic()
        self._next = self._begun + _FIRST_WORD

    def tick(self) -> None:
        """Say something if it is time to."""
        now = monotonic()
        if now >= self._next:
            self._next = now + _MORE_WORDS
            share = 100 * self._source.reached() // self._source.end
            text = (
                "%s: %d%% of the compressed data have been read in %d seconds; clients wait for it"
            )
            log.warning(text, self._source.name, share, now - self._begun)
