"""The contract: what a plugin implements.

A `Plugin` is one configured disk source; it lives as long as the server and is inherited by
every worker.  An `Export` is one client's view of it, made by `Plugin.open` in the worker
that serves the client.  A plugin that needs nothing of its own for each client is its own
export: it overrides `get_size`, `pread` and so on directly.

Methods that read or change the disk report failure by raising `OSError`; the client gets the
nearest NBD error.  The server checks bounds, read-only and flags before it calls, so a plugin
never needs to.  What a plugin does not override is emulated, or not offered to clients.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nbdfork.types import Buffer

FUA = 1 << 0
"""Flag: do not return before the data written is on stable storage."""

MAY_TRIM = 1 << 1
"""Flag of `Export.zero`: the range may become a hole; without it, it must stay allocated."""

FAST_ZERO = 1 << 2
"""Flag of `Export.zero`: raise OSError(EOPNOTSUPP), with nothing changed, unless zeroing is
faster than writing."""


class Support(enum.Enum):
    """How an optional operation is carried out."""

    NONE = "none"
    EMULATE = "emulate"
    NATIVE = "native"


class BlockSize(NamedTuple):
    """Block size constraints in bytes (protocol document, "Block size constraints").

    *minimum* is a power of 2 up to 64 KiB; a request that is not a multiple of it is refused.
    *preferred* is a power of 2, at least 512.  *maximum* is the largest READ or WRITE.
    """

    minimum: int = 1
    preferred: int = 4096
    maximum: int = 32 * 1024 * 1024


class ExportInfo(NamedTuple):
    """An entry of the list of exports shown to clients."""

    name: str
    description: str = ""


class Export:
    """One client's view of a disk.

    The facts (`get_size`, `can_*`, `block_size` ...) are asked once, when the client connects.
    """

    def get_size(self) -> int:
        """Return the size of the disk in bytes, at most 2^63-1."""
        raise NotImplementedError(f"{type(self).__name__}.get_size is not implemented")

    def pread(self, count: int, offset: int) -> Buffer:
        """Return exactly *count* bytes from *offset*."""
        raise NotImplementedError(f"{type(self).__name__}.pread is not implemented")

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        """Write all of *data* at *offset*.  *data* is only good until this returns.

        *flags*: `FUA`, if `can_fua` is native.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Return when everything written so far is on stable storage."""
        raise NotImplementedError

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Discard *count* bytes from *offset*: a hint.  *flags*: as for `pwrite`."""
        raise NotImplementedError

    def zero(self, count: int, offset: int, flags: int) -> None:
        """Make *count* bytes from *offset* read as zeroes.

        *flags*: `MAY_TRIM`, `FAST_ZERO`, and `FUA` if `can_fua` is native.  OSError with
        EOPNOTSUPP, raised before anything is changed, makes the server write zeroes instead.
        """
        raise NotImplementedError

    def cache(self, count: int, offset: int) -> None:
        """Bring *count* bytes from *offset* nearer: a hint."""
        raise NotImplementedError

    def close(self) -> None:
        """The client has gone."""

    # -- facts, with defaults derived from what is overridden ---------------------------

    def can_write(self) -> bool:
        """Whether the disk can be written."""
        return self._overrides("pwrite")

    def can_flush(self) -> bool:
        """Whether `flush` works."""
        return self._overrides("flush")

    def can_fua(self) -> Support:
        """How `FUA` is honoured; emulation is a flush after the operation."""
        return Support.EMULATE if self.can_flush() else Support.NONE

    def can_trim(self) -> bool:
        """Whether `trim` works."""
        return self._overrides("trim")

    def can_zero(self) -> bool:
        """Whether `zero` works; if not, zeroes are written."""
        return self._overrides("zero")

    def can_fast_zero(self) -> bool:
        """Whether clients may ask for `FAST_ZERO`.

        Without a `zero` of its own the disk answers every such request quickly, with "not
        supported", which is what a client wants to know.
        """
        return not self.can_zero()

    def can_cache(self) -> Support:
        """How CACHE is carried out; emulation reads the range and drops it."""
        return Support.NATIVE if self._overrides("cache") else Support.NONE

    def can_multi_conn(self) -> bool:
        """Whether a flush by one client covers what others have had acknowledged, and every
        client sees it at once (protocol document, CAN_MULTI_CONN).
        """
        return False

    def is_rotational(self) -> bool:
        """Whether seeking is slow: a hint."""
        return False

    def block_size(self) -> BlockSize:
        """Return the block size constraints."""
        return BlockSize()

    def description(self) -> str:
        """Return a line about this export for people, or ""."""
        return ""

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Export, method)


class Plugin(Export):
    """One configured disk source.

    The docstring's first line is the plugin's description.  Class attributes of type
    `Parameter` are its parameters.  The methods below are called in this order; those up to
    `get_ready` may raise `ConfigError` and the user will see it.
    """

    debug_flags: Mapping[str, str] = {}
    """The flags that `-D PLUGIN.FLAG=N` can set, with a line of help each."""

    def __init__(self) -> None:
        self.debug: dict[str, int] = dict.fromkeys(self.debug_flags, 0)

    def dump_plugin(self) -> Mapping[str, str]:
        """Return what `--dump-plugin` prints beyond the usual, by key."""
        return {}

    def config_complete(self) -> None:
        """All parameters are set: check them together."""

    def get_ready(self) -> None:
        """Make what all clients share.  Called once, before the workers are forked and before
        privileges are dropped: what is made here must be shared by its nature (an open file,
        shared memory), because each worker has its own copy of everything else.
        """

    def after_fork(self) -> None:
        """Called in each worker before it serves its first client."""

    def list_exports(self) -> Iterable[ExportInfo]:
        """Return the exports that clients are shown."""
        return [ExportInfo(self.default_export())]

    def default_export(self) -> str:
        """Return the name of the export that a client gets when it names none."""
        return ""

    def open(self, export_name: str, read_only: bool) -> Export:
        """Return the export *export_name* for a new client.

        OSError refuses the client; with errno ENOENT it is told that there is no such export.
        """
        return self
