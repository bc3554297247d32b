"""A file of fsspec's file system in memory, which a program has filled before it serves.

All clients are served by one process, and they may write.
"""

from typing import Any

from nbdfork.plugin import Export

from .recipe import Recipe


class MemoryExport(Export):
    """A client's view of a file in memory.  Raises OSError if there is no such file."""

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

    # These use the buffer directly: read() and write() would move the one position that all
    # clients share.

    def pread(self, count: int, offset: int) -> bytes:
        with self._file.getbuffer() as buffer:
            return bytes(buffer[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        with self._file.getbuffer() as buffer:
            buffer[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Do nothing: memory is all there is."""
