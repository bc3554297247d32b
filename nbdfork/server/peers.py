"""The other end of a connection: who it is, as far as the system can tell."""

import os
import socket
import struct
from typing import Any, NamedTuple

_CREDENTIALS = struct.Struct("3i")
_KIND_BITS = 40
_IPV4, _UNIX, _VSOCK = (kind << _KIND_BITS for kind in (1, 2, 3))
_IPV4_MAPPED = bytes(10) + b"\xff\xff"


class Peer(NamedTuple):
    """A client that has connected.

    *shown* is for people.  *party* is a number for whom it belongs to: an IPv4 address, the first
    64 bits of an IPv6 address, which one customer of a network has as a whole, a user ID on a Unix
    domain socket, or the context of a virtual machine.  Of *ip* (an address without a scope),
    *cid* and *uid* with *gid* one is known.
    """

    shown: str
    party: int
    ip: str | None = None
    cid: int | None = None
    uid: int | None = None
    gid: int | None = None


def identify(client: socket.socket) -> Peer:
    """Return who is at the other end of *client*.  Raises OSError if it has gone already."""
    if client.family == socket.AF_UNIX:
        packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(packed)
        return Peer(f"unix pid {pid} uid {uid}", _UNIX | uid, uid=uid, gid=gid)
    name = client.getpeername()
    shown = show(client.family, name)
    if client.family == socket.AF_VSOCK:
        return Peer(shown, _VSOCK | name[0], cid=name[0])
    ip = str(name[0]).partition("%")[0]
    return Peer(shown, _party_of(client.family, ip), ip=ip)


def _party_of(family: int, ip: str) -> int:
    packed = socket.inet_pton(family, ip)
    if packed.startswith(_IPV4_MAPPED):
        packed = packed[len(_IPV4_MAPPED) :]
    if len(packed) == 4:
        return _IPV4 | int.from_bytes(packed, "big")
    return int.from_bytes(packed[:8], "big")


def show(family: int, address: Any) -> str:
    """Return *address*, as the functions of `socket` give it, for people."""
    if family == socket.AF_UNIX:
        path = os.fsdecode(address)
        return f"@{path[1:]}" if path.startswith("\0") else path  # as in unix(7): abstract
    host, port = address[:2]
    if family == socket.AF_VSOCK:
        return f"vsock {'any' if host == socket.VMADDR_CID_ANY else host}:{port}"
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
