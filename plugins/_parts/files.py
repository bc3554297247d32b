"""Files as parts of a disk."""

import os
import stat

from nbdfork.plugin import ConfigError
from nbdfork.plugin.descriptor import DescriptorExport


def check_part(plugin: str, path: str) -> None:
    """Raise `ConfigError`, naming *plugin*, unless *path* can be a part of a disk."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{plugin}: {path}: {error.strerror}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ConfigError(f"{plugin}: {path}: is neither a regular file nor a block device")


def open_part(path: str, read_only: bool) -> DescriptorExport:
    """Open *path* as a part of a disk.  Raises OSError."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK  # should it have become a fifo, not to wait for it
    fd = os.open(path, flags | (os.O_RDONLY if read_only else os.O_RDWR))
    try:
        return DescriptorExport(fd, writable=not read_only)
    except BaseException:
        os.close(fd)
        raise
