"""A plugin to copy and change: a RAM disk whose first bytes can be protected.

    nbdfork contrib/examples/template_plugin.py 1M

nbdfork-plugin(3) walks through it.  The one thing to keep in mind: every client is served by a
process of its own, so what clients share is made in `get_ready`, of a kind that is shared.
"""

import errno
import logging
from collections.abc import Mapping

from nbdfork.plugin import (
    ConfigError,
    Export,
    Parameter,
    Plugin,
    SharedBuffer,
    SharedCounter,
    Support,
    parse,
)

log = logging.getLogger(__name__)


class Template(Plugin):
    """a RAM disk whose first bytes can be protected"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )
    protect = Parameter(
        parse.size, default=0, metavar="SIZE", help="how much of its beginning is never written"
    )
    debug_flags: Mapping[str, str] = {"clients": "log the clients that come and go"}

    def config_complete(self) -> None:
        # Parameters that must fit each other are checked here: the user sees the message.
        if self.protect > self.size:
            raise ConfigError(f"protect={self.protect}: the disk has only {self.size} bytes")

    def get_ready(self) -> None:
        # Before the fork.  A bytearray and an int would be copied into each process.
        self.disk = SharedBuffer(self.size, name="disk")
        self.clients = SharedCounter(name="clients")

    def open(self, export_name: str, read_only: bool) -> Export:
        # In a client's process.  An OSError here refuses the client.
        return Client(self, self.clients.add())


class Client(Export):
    """What one client sees.  The server has checked ranges and flags before it calls."""

    def __init__(self, plugin: Template, number: int) -> None:
        self._plugin = plugin
        self._disk = plugin.disk
        self._number = number
        self._log("is client %d")

    def get_size(self) -> int:
        return len(self._disk)

    def can_fua(self) -> Support:
        return Support.NATIVE  # every write is as good as flushed

    def can_multi_conn(self) -> bool:
        return True  # what one client has written, all can read

    def pread(self, count: int, offset: int) -> bytes:
        return self._disk[offset : offset + count]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if offset < self._plugin.protect:
            raise OSError(errno.EPERM, f"the first {self._plugin.protect} bytes are protected")
        self._disk[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing to do: memory is as stable as this disk will ever be."""

    def close(self) -> None:
        self._log("was client %d")

    def _log(self, message: str) -> None:
        if self._plugin.debug["clients"]:
            log.info(message, self._number)
