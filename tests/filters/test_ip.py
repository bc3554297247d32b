"""The ip filter: who is let in, by rules as nbdkit has them."""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from nbdfork.filters.ip import Peer, _meaning
from tests.support.beside import both
from tests.support.harness import Server
from tests.support.libnbd import connected, libnbd
from tests.support.tls import Certificates, uri

V4, V6, UNIX, VSOCK = 2, 10, 1, 40

PEERS = {
    "192.0.2.7": Peer(V4, ip_address("192.0.2.7")),
    "127.0.0.1": Peer(V4, ip_address("127.0.0.1")),
    "2001:db8::7": Peer(V6, ip_address("2001:db8::7")),
    "::1": Peer(V6, ip_address("::1")),
    "unix": Peer(UNIX, label="system_u:system_r:virt_t:s0"),
    "vsock": Peer(VSOCK, vsock=(3, 1025)),
    "pipe": Peer(None),
}

RULES = {
    "all": set(PEERS),
    "any": set(PEERS),
    "anyipv4": {"192.0.2.7", "127.0.0.1"},
    "allipv6": {"2001:db8::7", "::1"},
    "anyunix": {"unix"},
    "allvsock": {"vsock"},
    "loopback": {"127.0.0.1", "::1"},
    "loopback4": {"127.0.0.1"},
    "loopbackv6": {"::1"},
    "192.0.2.7": {"192.0.2.7"},
    "192.0.2.0/24": {"192.0.2.7"},
    "192.0.2.9/24": {"192.0.2.7"},
    "2001:db8::/32": {"2001:db8::7"},
    "::1": {"::1"},
    "vsock-cid:3": {"vsock"},
    "vsock-port:1025": {"vsock"},
    "vsock-port:3": set(),
    "security:system_u:system_r:virt_t:s0": {"unix"},
    "pid:1": set(),
    "dn:*": set(),
}


@pytest.mark.parametrize("rule", RULES)
def test_whom_a_rule_is_about(rule: str) -> None:
    match = _meaning(rule)
    assert {name for name, peer in PEERS.items() if match(peer)} == RULES[rule]


def is_let_in(address: str) -> bool:
    try:
        with connected(address):
            return True
    except libnbd().Error:
        return False


UID, GID, PID = (
    os.getuid(),
    os.getgid(),
    os.getpid(),
)  # its 1.32 does not take every rule with an address


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True),
        (["deny=all"], False),
        (["deny=anyipv4"], True),
        ([f"allow=uid:{UID}", "deny=all"], True),
        ([f"allow=uid:{UID + 1}", "deny=all"], False),
        ([f"allow=anyipv4,gid:{GID}", "deny=all"], True),
        ([f"deny=pid:{PID}"], False),
        (["allow=anyunix", "deny=all"], True),
        (["allow=anyipv6", "allow=anyipv4", "deny=allunix"], False),
    ],
)
def test_clients_of_a_unix_socket_as_nbdkit_lets_them_in(
    arguments: list[str], expected: bool, tmp_path: Path
) -> None:
    theirs, ours = both(tmp_path, is_let_in, "--filter=ip", "memory", "1M", *arguments)
    assert ours == theirs == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["allow=loopback", "deny=all"], True),
        (["deny=127.0.0.0/8"], False),
        (["allow=anyipv6", "deny=all"], False),
    ],
)
def test_clients_of_a_tcp_socket(arguments: list[str], expected: bool) -> None:
    listen = ("-i", "127.0.0.1", "-p", "0")
    with Server("-n", "--filter=ip", "memory", "1M", *arguments, listen=listen) as server:
        assert is_let_in(server.uri) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("dn:*O=Disks*", True),
        ("dn:*O=Others*", False),
        ("issuer-dn:CN=server", True),
        ("issuer-dn:CN=elsewhere", False),
    ],
)
def test_clients_with_certificates(rule: str, expected: bool, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    options = ("--tls=on", f"--tls-certificates={certificates.server}", "--tls-verify-peer")
    arguments = ("--filter=ip", "-D", "ip.rules=1", "-v", "memory", "1M", f"allow={rule}")

    def seen(address: str) -> Any:
        return is_let_in(address)

    with Server("-n", *options, *arguments, "deny=all") as server:
        assert seen(uri(server, f"tls-certificates={certificates.client}")) == expected
        assert not seen(server.uri)  # without TLS there is no certificate
        assert "deny=all decides" in server.log
