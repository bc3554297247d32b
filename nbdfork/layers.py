"""The plugin and its filters, as the command line has them: found, made, and configured.

Serving and `--dump-plugin` both go this way.
"""

from collections.abc import Sequence

from nbdfork import logs
from nbdfork.backend import load
from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.errors import starting
from nbdfork.backend.load import Found
from nbdfork.options import Options
from nbdfork.plugin import ConfigError


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


def configure(layers: Sequence[Layer], options: Options) -> Chain:
    """Return the plugin, which is the last of *layers*, behind the filters, all with their
    parameters and debug flags.  Raises `ConfigError`.
    """
    *filters, plugin = layers
    chain = Chain(plugin, filters, single=options.single)
    for owner, flag, value in options.debug:
        if owner in ("nbdfork", "nbdkit"):
            _set_server_flag(f"-D {owner}.{flag}", flag, value)
        else:
            chain.set_debug_flag(owner, flag, value)
    chain.configure(options.arguments)
    return chain


def is_newstyle(chain: Chain, options: Options) -> bool:
    """Return whether to speak the newstyle protocol.

    Raises `ConfigError` if the oldstyle protocol is asked for where clients have to give names.
    """
    has_names = chain.has_named_exports()
    if has_names and options.newstyle is False:
        raise ConfigError(
            f"{chain.name}: clients choose among exports by their names, and the oldstyle protocol"
            " has none: leave out -o"
        )
    return options.newstyle or has_names


def _set_server_flag(option: str, flag: str, value: int) -> None:
    try:
        logs.set_debug_flag(flag, value)
    except KeyError:
        known = ", ".join(logs.DEBUG_FLAGS)
        raise ConfigError(f"{option}: no such debug flag; there is: {known}") from None
