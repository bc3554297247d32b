"""A file of fsspec's file system in memory: what a program has put there before it became a
server, for all clients of one process, who may write.
"""

from typing import Any

from nbdfork.plugin import Export

from .recipe import Recipe


class MemoryExport(Export):
    """A client's view of a file in memory.  Making it raises OSError if there is none."""

    def __init__(self, recipe: Recipe) -> None:
        try:
            file_system, path = recipe.make()
            self._file: Any = file_system.open(path, "r+b")
        except OSError as error:
            raise recipe.failure(error) from error
        self._size = len(self._file.getbuffer())

    def get_size(self) -> int:
        return self._size

    def can_multi_conn(self) -> bool:
        return True

    # The bytes themselves, because reading and writing by position would move the one position
    # that all clients share.

    def pread(self, count: int, offset: int) -> bytes:
        with self._file.getbuffer() as buffer:
            return bytes(buffer[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        with self._file.getbuffer() as buffer:
            buffer[offset : offset + len(data)] = data

    def flush(self) -> None:
        """There is nothing that would be safer."""
