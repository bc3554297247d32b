"""The metadata contexts of one client: what it may ask BLOCK_STATUS about.

Rules: protocol document, "Metadata querying" and the options LIST_META_CONTEXT and
SET_META_CONTEXT.
"""

from collections.abc import Iterable, Sequence

from nbdfork.backend.gate import Gate
from nbdfork.protocol import wire


def offered(gate: Gate) -> dict[int, str]:
    """Return the contexts of an export, by the ids that they have for all its clients."""
    return dict(enumerate((wire.BASE_ALLOCATION, *gate.contexts), 1))


def listed(contexts: dict[int, str], queries: Sequence[str]) -> list[str]:
    """Return the names that LIST_META_CONTEXT asks for: all, of a namespace ("base:"), or one."""
    if not queries:
        return list(contexts.values())
    return [
        name
        for name in contexts.values()
        if name in queries or name[: name.index(":") + 1] in queries
    ]


def selected(contexts: dict[int, str], queries: Iterable[str]) -> dict[int, str]:
    """Return the contexts that SET_META_CONTEXT selects: only those named in full."""
    wanted = set(queries)
    return {number: name for number, name in contexts.items() if name in wanted}
