"""What an export may say of itself: facts that make no sense are refused before a client sees them.

Each function raises OSError with EINVAL, and says what is wrong; it is the plugin's mistake.
"""

import errno
from collections.abc import Iterable

from nbdfork.plugin import BlockSize, Export, FileRange, parse

_MOST_MINIMUM = 64 * 1024
_LEAST_PREFERRED = 512
_MOST_PREFERRED = 32 * 1024 * 1024
_NO_MAXIMUM = 0xFFFFFFFF
"""Limits of block sizes (protocol document, "Block size constraints"), in bytes."""


def check_size(size: int) -> None:
    """Check the size of a disk."""
    if not 0 <= size <= parse.MAX_SIZE:
        raise OSError(errno.EINVAL, f"the plugin says its size is {size} bytes")


def check_block_size(sizes: BlockSize) -> None:
    """Check block size constraints against what the protocol allows."""
    minimum, preferred, maximum = sizes
    are_powers = all(n > 0 and n & (n - 1) == 0 for n in (minimum, preferred))
    if not (
        are_powers
        and minimum <= _MOST_MINIMUM
        and maximum <= _NO_MAXIMUM
        and (maximum % minimum == 0 or maximum == _NO_MAXIMUM)
        and max(minimum, _LEAST_PREFERRED) <= preferred <= min(maximum, _MOST_PREFERRED)
    ):
        raise OSError(errno.EINVAL, f"the plugin's block sizes are invalid: {sizes}")


def check_contexts(names: Iterable[str]) -> None:
    """Check that all *names* of metadata contexts are names, and none of the protocol's own."""
    for name in names:
        namespace, colon, leaf = name.partition(":")
        is_name = bool(namespace and colon and leaf) and namespace != "base"
        if not is_name or not name.isprintable():
            raise OSError(
                errno.EINVAL,
                f"the plugin's metadata context {name!r} is not named x-NAMESPACE:NAME",
            )


def file_range(export: Export, size: int) -> FileRange | None:
    """Return where in a file the *size* bytes of a disk are, all or the first of them, or None."""
    found = export.file_range()
    if found is None:
        return None
    if found.start < 0 or not 0 <= found.size <= parse.MAX_SIZE - found.start:
        raise OSError(errno.EINVAL, f"the plugin says that its disk is {found}")
    return found._replace(size=min(found.size, size))
