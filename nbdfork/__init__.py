"""nbdfork: a toolkit for NBD servers, and the server itself.

The contract for plugins and filters is `nbdfork.plugin`; `serve` serves a disk from within a
program.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdfork.embed import Server, serve
    from nbdfork.plugin import ConfigError
    from nbdfork.server.errors import StartupError

__version__ = "0.1.0"

__all__ = ["ConfigError", "Server", "StartupError", "__version__", "serve"]


def __getattr__(name: str) -> Any:
    """Import what is for programs when it is first used: plugins import this package, too."""
    if name in ("ConfigError", "Server", "StartupError", "serve"):
        from nbdfork import embed

        return getattr(embed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
