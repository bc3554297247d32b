"""How the memory of a disk is taken: the parameter `allocator`, whose words are nbdkit's.

The memory is a memfd, which all workers share.  Its pages can be taken when they are written, or
all at once, and locked.
"""

import logging
import mmap
import os
from collections.abc import Callable
from typing import NamedTuple

from nbdfork.plugin import ConfigError, SharedBuffer, parse

log = logging.getLogger(__name__)

FORMS = "sparse|malloc[,mlock=true]|zstd"


class Allocator(NamedTuple):
    """*whole*: all memory is taken at once, and *locked*, so that it is never swapped out.
    *packed*: it should be compressed.
    """

    whole: bool = False
    locked: bool = False
    packed: bool = False

    def __str__(self) -> str:
        """As it is typed."""
        if self.packed:
            return "zstd"
        return ("malloc" if self.whole else "sparse") + (",mlock=true" if self.locked else "")

    def make(self, size: int, keep: Callable[[mmap.mmap], None]) -> SharedBuffer:
        """Return *size* bytes of memory, those that there were before a reload.

        *keep* is given what must live as long as the memory is to be locked.  Raises OSError.
        """
        memory = SharedBuffer(size, name="disk", mapped=False)
        if self.packed:
            log.warning("allocator=zstd: this memory is not compressed, but as sparse as ever")
        if self.whole and size and memory.is_new:
            os.posix_fallocate(memory.fd, 0, size)
        if self.locked and size:
            keep(_locked(memory.fd, size))
        return memory


def _locked(fd: int, size: int) -> mmap.mmap:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    pages = mmap.mmap(fd, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    if libc.mlock(address, size) != 0:
        number = ctypes.get_errno()
        hint = "start the server as root, or raise the limit of locked memory (ulimit -l)"
        raise OSError(number, f"mlock: {os.strerror(number)}: {hint}")
    return pages


def allocator(text: str) -> Allocator:
    """Parse the value of the parameter."""
    kind, *others = text.split(",")
    locked = False
    if kind == "malloc":
        for one in others:
            key, _, value = one.partition("=")
            if key != "mlock":
                raise ValueError(f"{one}: expected one of: {FORMS}")
            locked = parse.boolean(value or "true")
    elif kind not in ("sparse", "zstd") or others:
        raise ValueError(f"expected one of: {FORMS}")
    return Allocator(kind == "malloc", locked, kind == "zstd")


def made(plugin: str, how: Allocator, size: int, keep: Callable[[mmap.mmap], None]) -> SharedBuffer:
    """See `Allocator.make`.  Raises `ConfigError`."""
    try:
        return how.make(size, keep)
    except OSError as error:
        raise ConfigError(f"{plugin}: size={size}: {error.strerror}") from error
