"""What the tests of TLS share: certificates of all kinds, and a client without a library."""

import shutil
import socket
import ssl
import struct
from pathlib import Path

from tests.support.harness import SECONDS, Server, receive
from tests.support.pki import Authority

MAGIC = 0x49484156454F5054


GREETING = 18


STARTTLS = struct.pack(">QII", MAGIC, 5, 0)


GO = struct.pack(">QII", MAGIC, 7, 6) + bytes(6)


LIST = struct.pack(">QII", MAGIC, 3, 0)


ACK, TLS_REQD, INVALID, POLICY = 1, 0x80000005, 0x80000003, 0x80000002


class Certificates:
    """An authority, and folders of clients: one it knows, one it has revoked, one of another."""

    def __init__(self, place: Path) -> None:
        authority = Authority(place / "server")
        self.server = authority.directory
        self.client = authority.client("client")
        self.revoked = authority.client("revoked")
        authority.revoke(self.revoked)
        self.stranger = Authority(place / "elsewhere").client("stranger")
        shutil.copy(self.client / "ca-cert.pem", self.stranger)  # it does trust the server
        self.anonymous = place / "anonymous"
        self.anonymous.mkdir()
        shutil.copy(self.client / "ca-cert.pem", self.anonymous)


def uri(server: Server, parameters: str, user: str = "") -> str:
    return f"nbds+unix://{user}/?socket={server.socket}&{parameters}"


def greeted(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SECONDS)
    client.connect(str(path))
    receive(client, GREETING)
    client.sendall(struct.pack(">I", 3))
    return client


def answer(client: socket.socket) -> tuple[int, int]:
    """Return an option's number and the type of its reply, whose text is dropped."""
    _, option, kind, length = struct.unpack(">QIII", receive(client, 20))
    receive(client, length)
    return option, kind


def under_tls(client: socket.socket, ragged_end: bool = True) -> ssl.SSLSocket:
    """Ask for TLS, and begin it with a client that trusts anybody."""
    client.sendall(STARTTLS)
    assert answer(client) == (5, ACK)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(client, suppress_ragged_eofs=ragged_end)
