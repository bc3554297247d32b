"""What one client may have: the exports, by its certificate and by their names.

Whether it gets in at all, as far as that does not depend on these, was decided when it connected.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TypeAlias

from nbdfork.protocol import wire

log = logging.getLogger(__name__)

Admits: TypeAlias = Callable[[str | None, str | None], bool]
"""Says whether a client whose certificate has that subject may have the export of that name.

The subject is None if there is no certificate, and the name is None where any export is meant.
"""

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


Takes: TypeAlias = Callable[[str], bool]
"""Says whether there is room for one more client of the export of that name, which then is taken
by the one that asks, until it asks for another."""


def takes_any(export: str) -> bool:
    """There is room for any number of clients."""
    return True


def admits_all(subject: str | None, export: str | None) -> bool:
    """Admit every client: there are no rules."""
    return True


class NotAdmitted(Exception):
    """The client may not have what it asks for."""

    reply = wire.REP_ERR_POLICY


class TlsNeeded(NotAdmitted):
    """Only clients that use TLS can have the export."""

    reply = wire.REP_ERR_TLS_REQD


class Access:
    """What one client may have, as *admits* says; *subject* is what its certificate says.

    *takes* says whether there is room for it, and *peer* is who it is, for the log.
    """

    def __init__(self, admits: Admits, peer: str, takes: Takes = takes_any) -> None:
        self._admits = admits
        self._takes = takes
        self._peer = peer
        self.subject: str | None = None

    def check(self, export: str | None = None) -> None:
        """Raise `NotAdmitted` if the client may not have the *export*, or any."""
        if self._admits(self.subject, export):
            return
        why = "is not allowed"
        if export is not None:
            why = f"{why} to have the export {export!r}"
        certificate = f"its certificate is {self.subject!r}" if self.subject else "no certificate"
        log.warning("client %s %s (%s)", self._peer, why, certificate)
        raise NotAdmitted(f"this client {why}")

    def take(self, export: str) -> None:
        """Take a place among the clients of *export*.  Raises `NotAdmitted` if there is none."""
        if not self._takes(export):
            log.warning("client %s is refused: %r has all its clients", self._peer, export)
            raise NotAdmitted(f"the export {export!r} has as many clients as it may have")

    def shown(self, listed: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those of the exports, names and descriptions, that the client may have."""
        return [one for one in listed if self._admits(self.subject, one[0])]
