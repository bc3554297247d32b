"""What disks are made of: the directory of a run, and files of random bytes in it.

Files are on an ordinary file system (`machine` notes which) and stay in the page cache: no cell
measures a medium.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Disk:
    """What one server serves.

    *kind* is the name of the recipe that a server needs for it; *size* is in bytes.  *path* is the
    file that it is, if it is one.  *arguments* are the words of a command line that nbdkit and
    nbdfork both understand, if it is of the kind "plugin".  *filling* is a file that is written to
    it before it is measured, as disks in memory need it.  *prepared_by_first_client* says that the
    first client waits for something that is not done again for the next.
    """

    kind: str
    size: int
    path: Path | None = None
    arguments: tuple[str, ...] = ()
    filling: Path | None = None
    prepared_by_first_client: bool = False


class Materials:
    """The files of a run, made when they are first needed.  *size*: bytes of the largest.

    What has to be ended with the run is entered into `stack`, which `close` empties.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        self.stack = ExitStack()

    def close(self) -> None:
        self.stack.close()

    @property
    def ram_size(self) -> int:
        """Bytes of a disk in memory, and of other small ones: at most 64 MiB."""
        return min(self.size, 64 * MIB)

    @cached_property
    def file(self) -> Path:
        """A file of `size` random bytes."""
        return self._random("disk", self.size)

    @cached_property
    def filling(self) -> Path:
        """A file of `ram_size` random bytes."""
        return self._random("filling", self.ram_size)

    def _random(self, name: str, size: int) -> Path:
        """Make a file without a hole, and without zeroes that a copy would skip."""
        path = self.directory / name
        with path.open("wb") as file:
            for start in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - start)))
            file.flush()
            os.fsync(file.fileno())  # so that writing it back disturbs no measurement
        return path
