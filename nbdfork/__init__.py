"""nbdfork: a toolkit for NBD servers, and the server itself.

The contract for plugins is `nbdfork.plugin`, that for filters `nbdfork.filter`; `serve` serves
a disk from within a program.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdfork.embed import serve

__version__ = "0.1.0"

__all__ = ["__version__", "serve"]


def __getattr__(name: str) -> Any:
    """Import `serve` when it is first used: plugins import this package, and need none of it."""
    if name == "serve":
        from nbdfork.embed import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
