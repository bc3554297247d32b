"""What may be meant by a name that is no plugin or filter of nbdfork; for messages only.

It may be a disk, for which the plugin has been forgotten, or something that nbdkit has.  What
nbdkit has is known from the manual of its version 1.48.
"""

import os
import shlex
import stat
from collections.abc import Mapping

_IN_C = "install nbdkit with it: its plugins in C are found by their names"

PLUGINS: Mapping[str, str] = {
    "blkio": _IN_C,
    "cc": "compile the plugin, and give the path of the .so file",
    "cdi": _IN_C,
    "example4": "it is a script in Perl, which the perl plugin runs: nbdfork perl SCRIPT",
    "gcs": "the fsspec plugin reads gs:// (install nbdfork[fsspec] and gcsfs)",
    "golang": "build the plugin as a .so file, and give its path",
    "guestfs": _IN_C,
    "linuxdisk": _IN_C,
    "nfs": "mount it; the file plugin serves what is in it",
    "ondemand": _IN_C,
    "rust": "build the plugin as a .so file, and give its path",
    "sparse-random": _IN_C,
    "tmpdisk": _IN_C,
    "torrent": _IN_C,
    "vram": _IN_C,
}
"""Plugins, and what takes their place; empty if nothing does."""

FILTERS: Mapping[str, str] = {
    "indexed-gzip": "--filter=gzip keeps such an index by itself",
}
"""Filters, likewise."""


def explanation(word: str, name: str) -> str:
    """Return a sentence on the "plugin" or "filter" *name* of nbdkit; empty if it has none."""
    table = PLUGINS if word == "plugin" else FILTERS
    if name not in table:
        return ""
    if not table[name]:
        return "nbdkit has it, nbdfork has not."
    return f"nbdkit has it, nbdfork has not; instead: {table[name]}."


def explanation_of_key(layer: str, key: str) -> str:
    """Return a sentence on the *key* of nbdkit that *layer*, or a filter, would take there.

    It is empty if nbdkit has none.
    """
    from nbdfork.backend import known  # only needed after a mistake

    if key in {**known.FILTERS, **known.PLUGINS}.get(layer, "").split():
        return "nbdkit has it, nbdfork has not."
    owners = [name for name, keys in known.FILTERS.items() if key in keys.split()]
    if not owners:
        return ""
    more = explanation("filter", owners[0])
    return f"nbdkit's filter {owners[0]} takes it{f': {more}' if more else '.'}"


def command_to_serve(path: str) -> str:
    """Return how to serve the disk, or the directory of disks, at *path*; empty if it is none."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    if stat.S_ISDIR(mode):
        return f"nbdfork file dir={shlex.quote(path)}"
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return f"nbdfork file {shlex.quote(path)}"
    return ""
