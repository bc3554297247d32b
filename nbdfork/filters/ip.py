"""The ip filter: let clients in, or not, by who they are.

What matches an "allow" is let in, else what matches a "deny" is not, and all else is.  A rule about
certificates can be checked only after the TLS handshake, so then all are checked as late as that.
"""

import errno
import fnmatch
import logging
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from nbdfork.plugin import (
    Export,
    ExportInfo,
    Filter,
    Needs,
    Parameter,
    client,
)

log = logging.getLogger(__name__)

_SO_PEERSEC = 31  # socket(7); the module `socket` does not have it
_LATE = ("dn:", "issuer-dn:")


class Peer(NamedTuple):
    """Who a client is: its *family* and *address* if it is on a socket, and its *label*."""

    family: int | None
    address: IPv4Address | IPv6Address | None = None
    vsock: tuple[int, int] = (-1, -1)  # context and port
    label: str = ""


Match = Callable[[Peer], bool]


class Rule(NamedTuple):
    """What a user wrote, and what it means."""

    text: str
    match: Match


def _rules(text: str) -> tuple[Rule, ...]:
    """Parse rules with commas between; a name in a certificate has commas of its own."""
    if text.startswith(_LATE):
        return (Rule(text, _meaning(text)),)
    return tuple(Rule(word, _meaning(word)) for word in text.split(","))


class Ip(Filter):
    """let clients in by who they are"""

    debug_flags: Mapping[str, str] = {"rules": "log which rule decides about a client"}

    allow = Parameter(_rules, repeatable=True, metavar="RULE[,RULE...]", help="who is let in")
    deny = Parameter(
        _rules, repeatable=True, metavar="RULE[,RULE...]", help="who of all others is not"
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        self._allowed = [rule for rules in self.allow for rule in rules]
        self._denied = [rule for rules in self.deny for rule in rules]
        rules = (*self._allowed, *self._denied)
        self._is_late = any(rule.text.startswith(_LATE) for rule in rules)

    def preconnect(self, read_only: bool) -> None:
        if not self._is_late:
            self._check()
        self.next.preconnect(read_only)

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        if self._is_late:
            self._check()
        return self.next.list_exports(read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        if self._is_late:
            self._check()
        return super().open(export_name, read_only)

    def _check(self) -> None:
        """Raise OSError with EPERM if the client may not come in."""
        if not self._allowed and not self._denied:
            return
        peer = _peer()
        if (rule := _first(self._allowed, peer)) is not None:
            self._explain("allow", rule)
            return
        if (rule := _first(self._denied, peer)) is not None:
            self._explain("deny", rule)
            raise OSError(errno.EPERM, f"deny={rule.text}: the client is not let in")
        if peer.family not in _FAMILIES:
            raise OSError(errno.EPERM, "what the client is on is no socket that rules are about")

    def _explain(self, key: str, rule: Rule) -> None:
        if self.debug["rules"]:
            log.debug("ip: %s=%s decides", key, rule.text)


_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_VSOCK)


def _first(rules: Iterable[Rule], peer: Peer) -> Rule | None:
    return next((rule for rule in rules if rule.match(peer)), None)


def _peer() -> Peer:
    """Return who the client of this thread is."""
    stream = client.current()
    if stream is None:
        return Peer(None)
    label = _label(stream)
    name = stream.getpeername()
    if stream.family in (socket.AF_INET, socket.AF_INET6):
        address = ip_address(name[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return Peer(family, address, label=label)
    if stream.family == socket.AF_VSOCK:
        return Peer(stream.family, vsock=(name[0], name[1]), label=label)
    return Peer(stream.family, label=label)


def _label(stream: socket.socket) -> str:
    try:
        found = stream.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, 4096)
    except OSError:
        return ""
    return found.rstrip(b"\0").decode(errors="replace")


# -- what rules mean --------------------------------------------------------------------------


def _of(family: int) -> Match:
    return lambda peer: peer.family == family


def _in(*networks: str) -> Match:
    return _in_networks([ip_network(network) for network in networks])


def _in_networks(networks: list[IPv4Network | IPv6Network]) -> Match:
    return lambda peer: any(peer.address in network for network in networks if peer.address)


_WORDS: Mapping[str, Match] = {
    "all": lambda peer: True,
    "any": lambda peer: True,
    **dict.fromkeys(("allipv4", "anyipv4"), _of(socket.AF_INET)),
    **dict.fromkeys(("allipv6", "anyipv6"), _of(socket.AF_INET6)),
    **dict.fromkeys(("allunix", "anyunix"), _of(socket.AF_UNIX)),
    **dict.fromkeys(("allvsock", "anyvsock"), _of(socket.AF_VSOCK)),
    "loopback": _in("127.0.0.0/8", "::1"),
    **dict.fromkeys(("loopbackipv4", "loopbackv4", "loopback4"), _in("127.0.0.0/8")),
    **dict.fromkeys(("loopbackipv6", "loopbackv6", "loopback6"), _in("::1")),
}

_NUMBERS: Mapping[str, Callable[[int, Peer], bool]] = {
    "pid": lambda number, peer: _credential(0) == number,
    "uid": lambda number, peer: _credential(1) == number,
    "gid": lambda number, peer: _credential(2) == number,
    "vsock-cid": lambda number, peer: peer.vsock[0] == number,
    "vsock-port": lambda number, peer: peer.vsock[1] == number,
}

_TEXTS: Mapping[str, Callable[[str, Peer], bool]] = {
    "security": lambda label, peer: peer.label == label,
    "dn": lambda pattern, peer: _certified("subject", pattern),
    "issuer-dn": lambda pattern, peer: _certified("issuer", pattern),
}


def _credential(number: int) -> int | None:
    found = client.credentials()
    return None if found is None else found[number]


def _certified(field: str, pattern: str) -> bool:
    protection = client.protection()
    name = getattr(protection, field) if protection else ""
    return bool(name) and fnmatch.fnmatchcase(name, pattern)


def _meaning(text: str) -> Match:
    """Return what the rule *text* means.  Raises ValueError."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    kind, colon, rest = text.partition(":")
    if colon and kind in _NUMBERS:
        if not re.fullmatch(r"[0-9]{1,10}", rest, re.ASCII):
            raise ValueError(f"{text!r}: expected a number after {kind}:")
        test, number = _NUMBERS[kind], int(rest)
        return lambda peer: test(number, peer)
    if colon and kind in _TEXTS:
        look = _TEXTS[kind]
        return lambda peer: look(rest, peer)
    try:
        return _in_networks([ip_network(text, strict=False)])
    except ValueError:
        raise ValueError(
            f"{text!r} is no rule: expected an address, a network as in 10.0.0.0/8, a word such as"
            " all, anyunix or loopback, or one of pid: uid: gid: security: dn: issuer-dn:"
            " vsock-cid: vsock-port:"
        ) from None
