"""The info plugin: what the server knows of its client, as a disk."""

import socket
import struct
import time
from pathlib import Path

import pytest

from nbdfork.plugin import client
from tests.support.harness import NBDFORK, Server, need, output, receive
from tests.support.plugins import content, plugin

KINDS = ("nbdkit",), tuple(NBDFORK)


@pytest.mark.parametrize("mode", ["exportname", "base64exportname"])
def test_info_of_names_is_what_nbdkit_gives(tmp_path: Path, mode: str) -> None:
    need("nbdkit", "nbdcopy")
    found = []
    for command in KINDS:
        copy = tmp_path / "copy"
        copy.unlink(missing_ok=True)
        names = "aGVsbG8gd29ybGQ= %C3%9C =="
        script = (
            f"for name in {names}; do"
            f' nbdcopy "nbd+unix:///$name?socket=$unixsocket" - >>{copy} || echo no >>{copy}; done'
        )
        output(*command, "-n", "-U", "-", "info", mode, "--run", script)
        found.append(copy.read_bytes())
    assert found[1] == found[0]
    assert (b"hello world" in found[1]) is (mode == "base64exportname")


def test_info_tells_the_time() -> None:
    before = time.time()
    seconds, microseconds = struct.unpack(">QI", content(plugin("info", "time").open("", True)))
    assert int(before) <= seconds + microseconds / 1e6 <= time.time()


@pytest.mark.parametrize("mode", ["uptime", "conntime"])
def test_info_tells_how_long_it_has_been(mode: str) -> None:
    made = plugin("info", mode)
    export = made.open("", True)
    first, second = (struct.unpack(">QI", content(export)) for _ in range(2))
    assert (0, 0) <= first <= second
    later = struct.unpack(">QI", content(made.open("", True)))
    assert (later >= second) or mode == "conntime"
    assert bytes(export.pread(4, 2)) == b"\0\0\0\0"


def test_info_tells_the_address() -> None:
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        with Server("-n", "info", "address", listen=("-i", host, "-p", "0")) as server:
            with socket.create_connection((host, server.port)) as client:
                client.sendall(bytes.fromhex("00000003 49484156454f5054 00000001 00000000"))
                size = int.from_bytes(receive(client, 26)[18:], "big")
                client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, size))
                told = receive(client, 2 + 16 + size)[18:].decode()
                assert told == f"{shown}:{client.getsockname()[1]}"
    assert output(*NBDFORK, "-n", "-U", "-", "info", "address", "--run", "nbdcopy $uri -") == "unix"


def test_info_tells_of_virtual_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine for the tests has any."""

    class Peer:
        family = socket.AF_VSOCK

        def getpeername(self) -> tuple[int, int]:
            return 3, 1023

    made = plugin("info", "address")
    monkeypatch.setattr(client, "current", Peer)
    assert content(made.open("", True)) == b"vsock:3:1023"
