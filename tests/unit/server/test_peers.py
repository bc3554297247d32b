"""Who is at the other end of a socket."""

import os
import socket

import pytest

from nbdfork.server.peers import identify, show


def test_a_process_on_a_unix_domain_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = identify(ours)
    assert peer.shown == f"unix pid {os.getpid()} uid {os.getuid()}"
    assert (peer.uid, peer.gid, peer.ip) == (os.getuid(), os.getgid(), None)


@pytest.mark.parametrize(("address", "ip"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_an_address(address: str, ip: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        with socket.create_connection(listener.getsockname()[:2]) as client:
            accepted, _ = listener.accept()
            with accepted:
                peer = identify(accepted)
                assert peer.ip == ip
                assert peer.shown == show(family, client.getsockname())


def party(*ip: str) -> set[int]:
    from nbdfork.server.peers import _party_of

    return {_party_of(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in ip}


def test_which_addresses_are_one_party() -> None:
    assert len(party("10.0.0.1", "::ffff:10.0.0.1")) == 1
    assert len(party("10.0.0.1", "10.0.0.2")) == 2
    assert len(party("2001:db8:0:1::1", "2001:db8:0:1:ffff::2")) == 1
    assert len(party("2001:db8:0:1::1", "2001:db8:0:2::1")) == 2
    assert 0 not in party("10.0.0.1", "2001:db8::1")


@pytest.mark.parametrize(
    ("family", "address", "shown"),
    [
        (socket.AF_INET6, ("::1", 10809, 0, 0), "[::1]:10809"),
        (socket.AF_UNIX, b"\0name", "@name"),
        (socket.AF_UNIX, "/run/sock", "/run/sock"),
        (socket.AF_VSOCK, (3, 10809), "vsock 3:10809"),
        (socket.AF_VSOCK, (socket.VMADDR_CID_ANY, 10809), "vsock any:10809"),
    ],
)
def test_addresses_are_shown(family: int, address: object, shown: str) -> None:
    assert show(family, address) == shown
