"""The plugin contract: write a `Plugin` and you have a disk, a `Filter` and you change one.

What is named in `__all__` is public, and nothing else: a plugin imports it from here, whatever file
it is in.  Two of the names are modules, `client` and `parse`, with an `__all__` of their own.  The
manual has every one of them (nbdfork-plugin(3), nbdfork-filter(3)), and a test holds both, and all
signatures, to what they were; `API_VERSION` says what is promised.

This wing knows neither processes nor the protocol, nor what the server makes of plugins
(`nbdfork.backend`).
"""

from nbdfork.plugin import client, parse
from nbdfork.plugin.descriptor import DescriptorExport
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
    FileRange,
    Support,
)
from nbdfork.plugin.filter import Filter, FilterExport
from nbdfork.plugin.loaded import LoadedFile
from nbdfork.plugin.lost import LostWrites
from nbdfork.plugin.parameters import Parameter, Secret, parameters_of, shown
from nbdfork.plugin.password import read_password
from nbdfork.plugin.pipeline import Ended, Pipeline, Unfinished
from nbdfork.plugin.plugin import Plugin, ThreadModel
from nbdfork.plugin.server import Server, Stdio
from nbdfork.plugin.shared import ScratchFile, SharedBuffer, SharedCounter, SharedLock
from nbdfork.plugin.version import API_VERSION
from nbdfork.types import Buffer, Needs

__all__ = [
    "API_VERSION",
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
    "DescriptorExport",
    "Ended",
    "Export",
    "ExportInfo",
    "Extent",
    "FileRange",
    "Filter",
    "FilterExport",
    "LoadedFile",
    "LostWrites",
    "Needs",
    "Parameter",
    "PartialError",
    "Pipeline",
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
    "Unfinished",
    "client",
    "parameters_of",
    "parse",
    "read_password",
    "shown",
]
