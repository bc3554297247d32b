"""Who may have an export, where that depends on a client's certificate.

All else that is decided about who gets in was decided when the client connected.
"""

from collections.abc import Callable
from typing import TypeAlias

from nbdfork.protocol import wire

Admits: TypeAlias = Callable[[str | None], bool]
"""Says whether a client may have an export whose certificate has that subject.

The subject is None if there is no certificate.
"""

NOT_ADMITTED = "this client is not allowed"

ABOUT_EXPORTS = frozenset(
    {
        wire.OPT_LIST,
        wire.OPT_INFO,
        wire.OPT_GO,
        wire.OPT_LIST_META_CONTEXT,
        wire.OPT_SET_META_CONTEXT,
    }
)
"""The options that only a client is answered which may have an export."""


def admits_all(subject: str | None) -> bool:
    """Admit every client: there are no rules about certificates."""
    return True
