"""Who gets in: decided when a client has connected, before any code of a plugin runs.

A rule names a party: an address or a network, a user or a group of this machine, a virtual machine,
or, by TLS, the subject of a certificate, which is not known yet when a client connects.  It may be
a rule for some exports alone: then it is asked when the client names one of them.
"""

import fnmatch
import grp
import logging
import pwd
import time
from collections.abc import Callable
from typing import NamedTuple

from nbdfork.server.peers import Peer
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import Slot

log = logging.getLogger(__name__)

_FOR = " for "
"""Stands in a rule between the party and the exports."""

_RESERVED = 8
"""One part in so many of the most clients is kept for others, unless the user says otherwise."""

_REPORT_SECONDS = 1.0
"""A worker reports refused clients no more often than that."""


class Rule(NamedTuple):
    """What a party is known by: one of *kind* "ip", "uid", "gid", "cid" or "dn", or "any".

    *exports* is a pattern for the names of those that the rule is for; None: it is for the server.
    """

    kind: str
    value: object = None
    exports: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Return the rule that a user means by *text*.  Raises ValueError."""
        party, is_for_some, exports = text.rpartition(_FOR)
        rule = cls._for_party(party if is_for_some else text)
        return rule._replace(exports=exports) if is_for_some else rule

    @classmethod
    def _for_party(cls, text: str) -> "Rule":
        kind, colon, value = text.partition(":")
        if colon and kind in _KINDS:
            return cls(kind, _KINDS[kind](value))
        if text == "any":
            return cls("any")
        return cls("ip", _network(text))

    def is_about(self, export: str | None) -> bool:
        """Return whether the rule is for the *export*, or, if that is None, for the server."""
        if export is None or self.exports is None:
            return export is self.exports
        return fnmatch.fnmatchcase(export, self.exports)

    def matches(self, peer: Peer, subject: str | None) -> bool:
        """Return whether *peer*, whose certificate has the *subject*, is meant."""
        if self.kind == "ip":
            return peer.ip is not None and _is_within(peer.ip, self.value)
        if self.kind == "dn":
            return subject is not None and fnmatch.fnmatchcase(subject, str(self.value))
        known = {"uid": peer.uid, "gid": peer.gid, "cid": peer.cid}
        return self.kind == "any" or known[self.kind] == self.value


def _network(text: str) -> object:
    import ipaddress  # only for those who have rules

    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(
                f"{text}: there are bits set beyond the length of the network"
            ) from None
        raise ValueError(
            f"{text!r} is neither an address or network, nor uid:, gid:, cid:, dn: or any; for some"
            " exports alone it is as in 'any for NAME'"
        ) from None


def _is_within(ip: str, network: object) -> bool:
    import ipaddress

    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address) in network  # type: ignore[operator]


def _user(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {text!r}") from None


def _group(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {text!r}") from None


def _context(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not the number of a virtual machine's context")
    return int(text)


_KINDS: dict[str, Callable[[str], object]] = {
    "uid": _user,
    "gid": _group,
    "cid": _context,
    "dn": str,
}


class Rules(NamedTuple):
    """Who may come in: those of *allow*, or all if it is empty, but none of *deny*.

    For an export there are the rules that are about it, by themselves: a client has to be let into
    the server first.
    """

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()

    def about(self, export: str | None) -> "Rules":
        """Return those of the rules that are about the *export*; None: about the server."""
        allow = tuple(rule for rule in self.allow if rule.is_about(export))
        return Rules(allow, tuple(rule for rule in self.deny if rule.is_about(export)))

    def admit(self, peer: Peer, subject: str | None = None, export: str | None = None) -> bool:
        """Return whether *peer* may have the *export*, or, if that is None, come in; *subject* is
        what its certificate says, if it has one that was verified.
        """
        allow, deny = self.about(export)
        if any(rule.matches(peer, subject) for rule in deny):
            return False
        return not allow or any(rule.matches(peer, subject) for rule in allow)

    def may_admit(self, peer: Peer) -> bool:
        """Return whether *peer* may come in with some certificate, or without one."""
        allow, deny = self.about(None)
        if any(rule.matches(peer, None) for rule in deny):
            return False
        return not allow or any(rule.kind == "dn" or rule.matches(peer, None) for rule in allow)


EVERYBODY = Rules()


class Admission(NamedTuple):
    """The conditions on which clients come in.

    *most_per_party*: the most clients of one address or user at the same time; 0 is any number.
    """

    rules: Rules
    most_per_party: int

    @classmethod
    def for_pool(
        cls, max_clients: int, most_per_party: int | None, rules: Rules = EVERYBODY
    ) -> "Admission":
        """Return the conditions for a server that has *max_clients* at the most.

        If *most_per_party* is None, a part of these is kept for other parties.
        """
        if most_per_party is None:
            most_per_party = max_clients - max_clients // _RESERVED
        return cls(rules, most_per_party)


class Door:
    """What a worker does with a client that has come to it."""

    def __init__(self, admission: Admission, board: Scoreboard) -> None:
        self._admission = admission
        self._board = board
        self._refused = 0  # and not reported
        self._next_report = 0.0

    def lets_in(self, peer: Peer, slot: Slot) -> bool:
        """Return whether *peer* is let in; if so, *slot* counts for its party."""
        if not self._admission.rules.may_admit(peer):
            self._report(peer, "it is not allowed")
            return False
        most = self._admission.most_per_party
        slot.set_party(peer.party)  # first: two that come at the same time see each other
        if most and self._board.count_party(peer.party) > most:
            slot.set_party(0)
            self._report(peer, f"there are {most} of its address or user, and no more are allowed")
            return False
        return True

    def _report(self, peer: Peer, reason: str) -> None:
        now = time.monotonic()
        if now < self._next_report:
            self._refused += 1
            return
        more = f" (and {self._refused} before it)" if self._refused else ""
        log.warning("client %s is refused: %s%s", peer.shown, reason, more)
        self._refused, self._next_report = 0, now + _REPORT_SECONDS
