"""Shared state that goes on in another program, the server's part: whose it is, and what there is.

The part of plugins is `nbdfork.plugin.shared`.
"""

from nbdfork.plugin._kept import Piece, begin, end, inherit, made
from nbdfork.plugin.errors import ConfigError


def demand_names() -> None:
    """Raise `ConfigError` if there is shared state that has no name, and so cannot go on."""
    for piece in made():
        if piece.name is None:
            raise ConfigError(
                f"{piece.layer}: it has shared state without a name, which cannot be handed over"
            )


__all__ = ["Piece", "begin", "demand_names", "end", "inherit", "made"]
