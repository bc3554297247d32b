"""Shared state that goes on when another program takes over the server's process.

Only the server writes this, through `nbdfork.backend.kept`.  What a layer makes of `SharedBuffer`
and its like is noted here, with the layer that it belongs to; what has a name, and was made by the
same layer of the same configuration in the program before, is that again.
"""

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from nbdfork.plugin.errors import ConfigError


class Piece(NamedTuple):
    """A piece of shared state, on the descriptor *fd*.

    *scope* and *layer*: whose it is; *configuration* tells apart what that was configured to be.
    *kind* and *name* tell the pieces of a layer apart; without a name it cannot go on.
    """

    scope: str
    layer: str
    configuration: str
    kind: str
    name: str | None
    size: int
    fd: int


_made: list[Piece] = []
_before: list[Piece] = []
_now: tuple[str, str, str] | None = None


def begin(scope: str, layer: str, configuration: str) -> None:
    """What is made from now on belongs to that."""
    global _now
    _now = (scope, layer, configuration)


def end() -> None:
    """What is made from now on is of one process, or of one client."""
    global _now
    _now = None


def inherit(pieces: Iterable[Piece]) -> None:
    """These are of the program before."""
    _before[:] = pieces


def made() -> list[Piece]:
    """Return what has been made by now."""
    return list(_made)


def take(
    kind: str, name: str | None, size: int, make: Callable[[], int], *, bound: bool = True
) -> tuple[int, bool]:
    """Return the descriptor of a piece of state, and whether it is a new one, made by *make*.

    It is *bound* to the configuration of the layer, unless it is empty.  Raises `ConfigError` if
    there is one of this name that cannot be it.
    """
    if _now is None:
        return make(), True
    scope, layer, configuration = _now
    piece = Piece(scope, layer, configuration, kind, name, size, -1)
    known = next((one for one in _before if name is not None and _is_same(one, piece)), None)
    if known is None:
        piece = piece._replace(fd=make())
    elif known.size != size or (size and bound and known.configuration != configuration):
        raise ConfigError(
            f"{layer}: its state in memory, {name!r}, is that of another configuration, and clients"
            " use it: give the export that is configured anew another name, or restart the server"
        )
    else:
        piece = piece._replace(fd=os.dup(known.fd))
    _made.append(piece)
    return piece.fd, known is None


def _is_same(one: Piece, other: Piece) -> bool:
    return (one.scope, one.layer, one.kind, one.name) == (
        *(other.scope, other.layer, other.kind, other.name),
    )
