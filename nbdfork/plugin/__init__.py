"""The plugin contract: write a `Plugin` and you have a disk.

This wing knows neither processes nor the protocol.  What is named here is public; `gate` and
`backend` are the server's side of the contract.
"""

from nbdfork.plugin import parse
from nbdfork.plugin.errors import ConfigError, PartialError
from nbdfork.plugin.export import (
    FAST_ZERO,
    FUA,
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    BlockSize,
    Export,
    ExportInfo,
    Extent,
    Support,
)
from nbdfork.plugin.parameters import Parameter, Secret, shown
from nbdfork.plugin.plugin import Plugin, ThreadModel
from nbdfork.plugin.shared import ScratchFile, SharedBuffer, SharedCounter, SharedLock
from nbdfork.types import Buffer

__all__ = [
    "FAST_ZERO",
    "FUA",
    "HOLE",
    "MAY_TRIM",
    "REQ_ONE",
    "ZERO",
    "BlockSize",
    "Buffer",
    "ConfigError",
    "Export",
    "ExportInfo",
    "Extent",
    "Parameter",
    "PartialError",
    "Plugin",
    "ScratchFile",
    "Secret",
    "SharedBuffer",
    "SharedCounter",
    "SharedLock",
    "Support",
    "ThreadModel",
    "parse",
    "shown",
]
