"""The bitmap filter: remember which blocks are written, for incremental backups.

A client is told which blocks were written since a checkpoint by a metadata context, as qemu's
clients know it: qemu:dirty-bitmap:NAME.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from nbdfork.filters._around import AroundChanges, Request
from nbdfork.filters._marks import Disk, Marks
from nbdfork.filters._values import power_of_2
from nbdfork.plugin import (
    REQ_ONE,
    ConfigError,
    Export,
    Extent,
    Filter,
    Needs,
    Parameter,
    parse,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_PREFIX = "qemu:dirty-bitmap:"
_DIRTY = 1


class Bitmap(Filter):
    """remember which blocks are written, for incremental backups"""

    bitmap_dir = Parameter(
        parse.path, required=True, metavar="DIRECTORY", help="where that is kept"
    )
    bitmap_block_size = Parameter(
        power_of_2(512, 2**31, "from 512 to 2G"),
        default=65536,
        metavar="SIZE",
        help="the size of what is remembered as written",
    )
    bitmap_checkpoint = Parameter(
        str, metavar="NAME", help="make this checkpoint when the server starts, if there is none"
    )

    def get_ready(self) -> None:
        directory = self.bitmap_dir
        if not os.path.isdir(directory):
            raise ConfigError(
                f"bitmap: bitmap-dir={directory}: no such directory: make it, for the user that the"
                " server will have"
            )
        try:
            self._marks = Marks(directory)
            if not self._marks.begin():
                log.warning(
                    "bitmap: the system was started anew while %s was in use: all blocks count as"
                    " written",
                    directory,
                )
            name = self.bitmap_checkpoint
            if name is not None and name not in self._marks.checkpoints():
                self._marks.add(name)
        except OSError as error:
            raise ConfigError(f"bitmap: {error.strerror} ({directory})") from error

    def needs(self) -> Needs:
        return Needs(write=frozenset({self.bitmap_dir}))

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        disk = Disk(export_name, next.get_size(), self.bitmap_block_size)
        self._marks.settle(disk)
        return BitmapExport(next, self._marks, disk)

    def finish(self) -> None:
        try:
            self._marks.end()
        except OSError as error:
            log.error("bitmap: %s: %s", self.bitmap_dir, error.strerror)


class BitmapExport(AroundChanges):
    """*next*, of which what is written is marked."""

    def __init__(self, next: Export, marks: Marks, disk: Disk) -> None:
        super().__init__(next)
        self._marks = marks
        self._disk = disk
        self._since = {_PREFIX + name: one.generation for name, one in marks.checkpoints().items()}

    def around(self, request: Request, do: Callable[[], T]) -> T:
        block = self._disk.block
        first = request.offset // block
        end = -(-(request.offset + request.length) // block)
        with self._marks.writing(first, end - first):
            return do()

    def can_resize(self) -> bool:
        return False  # it would change blocks that no request names

    def contexts(self) -> Iterable[str]:
        return (*self.next.contexts(), *self._since)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterable[Extent]:
        since = self._since.get(context)
        if since is None:
            return self.next.context_extents(context, count, offset, flags)
        return self._dirty(since, count, offset, flags)

    def _dirty(self, since: int, count: int, offset: int, flags: int) -> Iterator[Extent]:
        block = self._disk.block
        first = offset // block
        at = offset
        for blocks, is_written in self._marks.runs(
            since, first, -(-(offset + count) // block) - first
        ):
            first += blocks
            end = min(first * block, self._disk.size)
            yield Extent(at, end - at, _DIRTY if is_written else 0)
            if flags & REQ_ONE:
                return
            at = end
