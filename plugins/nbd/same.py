"""Connections to one export, which stays the same though its server may be another by now."""

import errno
from collections.abc import Callable

from .._link.reconnecting import LinkLost
from .connecting import Facts
from .remote import RemoteExport


class SameExport:
    """Makes connections with *make*, and ensures that all of them are to the same export."""

    def __init__(self, make: Callable[[], RemoteExport]) -> None:
        self._make = make
        self._facts: Facts | None = None

    def __call__(self) -> RemoteExport:
        try:
            export = self._make()
        except LinkLost as error:  # and *make* has tried often enough
            raise OSError(error.errno, error.strerror) from error
        self._facts = self._facts or export.facts
        if other := _difference(self._facts, export.facts):
            export.close()
            raise OSError(errno.EIO, f"the server's export has changed: {other}")
        return export


def _difference(before: Facts, now: Facts) -> str:
    """Return how an export differs from what it was before; "" if it does not."""
    for name, old, new in zip(Facts._fields, before, now, strict=True):
        if old != new:
            return f"its {name.replace('_', ' ')} was {old} and is {new}"
    return ""
