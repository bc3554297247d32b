"""The second example: a local file, read-only.

It is written to be read after example1.  New are a parameter, which is checked while the user
can still be told, a debug flag, and an object of its own for each client: what a client needs,
here an open file, is made in `open` and given up in `close`.
"""

import errno
import logging
import os
from collections.abc import Mapping

from nbdfork.plugin import ConfigError, Export, Needs, Parameter, Plugin, parse

log = logging.getLogger(__name__)


class Example2(Plugin):
    """an example: a local file, read-only"""

    file = Parameter(parse.path, required=True, metavar="FILENAME", help="the file to serve")
    debug_flags: Mapping[str, str] = {"extra": "log when a client opens and closes the file"}

    def config_complete(self) -> None:
        if not os.path.isfile(self.file):
            raise ConfigError(f"example2: {self.file}: there is no regular file of this name")

    def needs(self) -> Needs:
        # What else this process could reach is taken away from it, if the system can do that.
        return Needs(read=frozenset({self.file}))

    def open(self, export_name: str, read_only: bool) -> Export:
        # An OSError that is raised here, say because the file is gone, refuses this client.
        return OpenFile(self.file, trace=bool(self.debug["extra"]))


class OpenFile(Export):
    """What one client sees.  Because it has no `pwrite`, clients are told it is read-only."""

    def __init__(self, path: str, trace: bool) -> None:
        self._trace = trace
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if self._trace:
            log.debug("extra: opened %s", path)

    def get_size(self) -> int:
        return os.fstat(self._fd).st_size

    def can_multi_conn(self) -> bool:
        return True  # nobody writes, so there is nothing that a client could see too late

    def pread(self, count: int, offset: int) -> bytes:
        # One call suffices for a regular file, unless it ends.
        data = os.pread(self._fd, count, offset)
        if len(data) < count:
            raise OSError(errno.EIO, "the file has become shorter than it was when opened")
        return data

    def close(self) -> None:
        os.close(self._fd)
        if self._trace:
            log.debug("extra: closed the file")
