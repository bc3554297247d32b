"""The plugin contract: write a `Plugin` and you have a disk, a `Filter` and you change one.

What is named here is public.  This wing knows neither processes nor the protocol, nor what the
server makes of plugins (`nbdfork.backend`).
"""

from nbdfork.plugin import parse
from nbdfork.plugin.errors import NOT_SUPPORTED, ConfigError, PartialError
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
from nbdfork.plugin.filter import Filter, FilterExport
from nbdfork.plugin.loaded import LoadedFile
from nbdfork.plugin.parameters import Parameter, Secret, parameters_of, shown
from nbdfork.plugin.plugin import Plugin, ThreadModel
from nbdfork.plugin.server import Server, Stdio
from nbdfork.plugin.shared import ScratchFile, SharedBuffer, SharedCounter, SharedLock
from nbdfork.types import Buffer

__all__ = [
    "FAST_ZERO",
    "FUA",
    "HOLE",
    "MAY_TRIM",
    "NOT_SUPPORTED",
    "REQ_ONE",
    "ZERO",
    "BlockSize",
    "Buffer",
    "ConfigError",
    "Export",
    "ExportInfo",
    "Extent",
    "Filter",
    "FilterExport",
    "LoadedFile",
    "Parameter",
    "PartialError",
    "Plugin",
    "ScratchFile",
    "Secret",
    "Server",
    "SharedBuffer",
    "SharedCounter",
    "SharedLock",
    "Stdio",
    "Support",
    "ThreadModel",
    "parameters_of",
    "parse",
    "shown",
]
