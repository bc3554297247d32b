"""The plugin contract: write a `Plugin` and you have a disk.

This wing knows neither processes nor the protocol.  What is named here is public; `gate` and
`backend` are the server's side of the contract.
"""

from nbdfork.plugin import parse
from nbdfork.plugin.errors import ConfigError
from nbdfork.plugin.export import (
    FAST_ZERO,
    FUA,
    MAY_TRIM,
    BlockSize,
    Export,
    ExportInfo,
    Plugin,
    Support,
)
from nbdfork.plugin.parameters import Parameter
from nbdfork.types import Buffer

__all__ = [
    "FAST_ZERO",
    "FUA",
    "MAY_TRIM",
    "BlockSize",
    "Buffer",
    "ConfigError",
    "Export",
    "ExportInfo",
    "Parameter",
    "Plugin",
    "Support",
    "parse",
]
