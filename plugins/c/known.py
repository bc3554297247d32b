"""What is known of the plugins that come with nbdkit, which cannot say it themselves.

A plugin that is not listed may keep its disk in a variable, and may wait for a network; it is
served in the way that is right for every plugin.
"""

from collections.abc import Collection
from typing import NamedTuple


class Traits(NamedTuple):
    """How a plugin can be served.

    *processes*: what it keeps in memory either never changes after the fork or belongs to one
    client, so that clients can be served by separate processes; but not if it is given one of the
    parameters *sharing*, which make clients share a connection.  *waits*: see `Plugin.waits`.
    *main_thread*: it can be called by no other thread than the one that has loaded it.
    """

    processes: bool
    waits: bool
    sharing: Collection[str] = ()
    main_thread: bool = False

    def shares(self, given: Collection[str]) -> bool:
        """Return whether one process must serve all clients, the parameters *given* being set."""
        return not self.processes or any(key in given for key in self.sharing)


UNKNOWN = Traits(processes=False, waits=True)

_LOCAL = Traits(processes=True, waits=False)
_REMOTE = Traits(processes=True, waits=True)
_IN_MEMORY = Traits(processes=False, waits=False)

WELL_KNOWN = {
    # Files, opened by name or before the fork; pread and pwrite share no position.
    "file": _LOCAL,
    "split": _LOCAL,
    "partitioning": _LOCAL,
    "iso": _LOCAL,
    "linuxdisk": _LOCAL,
    "tmpdisk": _LOCAL,
    "example2": _LOCAL,
    # The contents follow from the parameters, or from what is drawn by lot before the fork.
    "floppy": _LOCAL,
    "full": _LOCAL,
    "info": _LOCAL,
    "null": _LOCAL,
    "pattern": _LOCAL,
    "random": _LOCAL,
    "sparse-random": _LOCAL,
    "example1": _LOCAL,
    "example3": _LOCAL,
    # Commands, which keep what they keep in files, and are waited for.
    "eval": _REMOTE,
    "sh": _REMOTE,
    # A connection for each client.
    "curl": _REMOTE,
    "ssh": _REMOTE,
    "nbd": Traits(processes=True, waits=True, sharing=("shared", "command", "socket-fd")),
    # RAM disks; and files whose names are locked in memory.
    "data": _IN_MEMORY,
    "memory": _IN_MEMORY,
    "ondemand": _IN_MEMORY,
    # Its interpreter lives in one thread; under nbdkit, which serves in others, it crashes.
    "ruby": Traits(processes=False, waits=False, main_thread=True),
}
