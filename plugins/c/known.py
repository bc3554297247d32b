"""What is known of the plugins that come with nbdkit, which cannot say it themselves.

A plugin that is not listed may keep its disk in a variable, and may wait for a network; it is
served in the way that is right for every plugin.
"""

from typing import NamedTuple


class Traits(NamedTuple):
    """*processes*: what it keeps in memory either never changes after the fork or belongs to one
    client, so that clients can be served by separate processes.  *waits*: see `Plugin.waits`.
    """

    processes: bool
    waits: bool


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
    # The contents follow from the parameters.
    "floppy": _LOCAL,
    "full": _LOCAL,
    "info": _LOCAL,
    "null": _LOCAL,
    "pattern": _LOCAL,
    "random": _LOCAL,
    "sparse-random": _LOCAL,
    "example1": _LOCAL,
    "example3": _LOCAL,
    # Commands, which keep what they keep in files.
    "eval": _LOCAL,
    "sh": _LOCAL,
    # A connection for each client.
    "curl": _REMOTE,
    "nbd": _REMOTE,
    "ssh": _REMOTE,
    # RAM disks.
    "data": _IN_MEMORY,
    "memory": _IN_MEMORY,
}
