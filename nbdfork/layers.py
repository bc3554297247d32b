"""The plugin and its filters, as the command line has them: found, made, and configured.

Serving and `--dump-plugin` both go this way.
"""

import logging
import os
from collections.abc import Callable, Sequence

from nbdfork import logs
from nbdfork.backend import load
from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.errors import starting
from nbdfork.backend.handle import Handle
from nbdfork.backend.load import Found
from nbdfork.options import Options
from nbdfork.plugin import ConfigError

log = logging.getLogger(__name__)


def find(options: Options) -> list[Found]:
    """Return the layers, the first nearest to the clients; the last is the plugin, if there is one.

    Raises `ConfigError`.
    """
    found = [load.find(name, load.FILTER) for name in options.filters]
    return found if options.plugin is None else [*found, load.find(options.plugin)]


def make(found: Sequence[Found]) -> list[Layer]:
    """Return a plugin and filters that have no parameters yet.  Raises `ConfigError`."""
    return [_made(one) for one in found]


def _made(found: Found) -> Layer:
    with starting(found.name, f"making the {found.kind.word}"):
        return Layer(found.name, found.plugin_class())


def configure(
    layers: Sequence[Layer], options: Options, confine: Callable[[], None] | None = None
) -> Chain:
    """Return the plugin, which is the last of *layers*, behind the filters, all with their
    parameters and debug flags.  *confine*: see `Server.confine`.  Raises `ConfigError`.
    """
    *filters, plugin = layers
    server = Handle(single=options.single, name=options.name, confine=confine)
    chain = Chain(plugin, filters, server=server)
    set_debug_flags([chain], options)
    chain.configure(options.arguments)
    return chain


def set_debug_flags(chains: Sequence[Chain], options: Options) -> None:
    """Set the debug flags, those of a layer wherever it is.  Raises `ConfigError`."""
    for owner, flag, value in options.debug:
        if owner in ("nbdfork", "nbdkit"):
            _set_server_flag(f"-D {owner}.{flag}", flag, value)
            continue
        having = [chain for chain in chains if owner in {layer.name for layer in chain.layers}]
        for chain in having or chains[:1]:
            chain.set_debug_flag(owner, flag, value)


def is_newstyle(chains: Sequence[Chain], options: Options) -> bool:
    """Return whether to speak the newstyle protocol.

    Raises `ConfigError` if the oldstyle protocol is asked for where clients have to give names.
    """
    named = [chain for chain in chains if chain.has_named_exports()]
    if named and options.newstyle is False:
        raise ConfigError(
            f"{named[0].name}: clients choose among exports by their names, and the oldstyle"
            " protocol has none: leave out -o"
        )
    return options.newstyle or bool(named)


def _set_server_flag(option: str, flag: str, value: int) -> None:
    if flag == "tls.log":
        raise ConfigError(
            f"{option}: OpenSSL, by which the server speaks, keeps no such log; nbdfork.tls.session"
            " tells what was agreed on, and SSLKEYLOGFILE lets other programs read the connection"
        )
    if flag == "environ":
        if value:
            for name, text in sorted(os.environ.items()):
                log.debug("environ: %s=%s", name, text)
        return
    try:
        logs.set_debug_flag(flag, value)
    except KeyError:
        known = ", ".join([*logs.DEBUG_FLAGS, "environ"])
        raise ConfigError(f"{option}: no such debug flag; there is: {known}") from None
