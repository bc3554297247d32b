"""The server's side of plugins: finding them, their layers and life, and the gate before them.

This wing knows the contract (`nbdfork.plugin`), and neither processes nor the protocol.  The latter
has no other way to a disk: the words of the contract that it needs are named here.
"""

from nbdfork.plugin import (
    NOT_SUPPORTED,
    REQ_ONE,
    BlockSize,
    Extent,
    FileRange,
    PartialError,
    Support,
    Unfinished,
)

__all__ = [
    "NOT_SUPPORTED",
    "REQ_ONE",
    "BlockSize",
    "Extent",
    "FileRange",
    "PartialError",
    "Support",
    "Unfinished",
]
