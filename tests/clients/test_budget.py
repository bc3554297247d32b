"""The memory that the data of large requests may take, for the server as a whole."""

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.support.harness import Server, eventually, receive
from tests.support.libnbd import connected, libnbd

MIB = 1 << 20
READ, WRITE = 0, 1
GREETING = 152  # bytes, of the oldstyle protocol
BUDGET = ("-o", "--memory-budget=16M")
THREADS = pytest.mark.parametrize("threads", ["1", "16"])
TOLD = "large requests take 16777216 bytes, as much as they may"


@contextmanager
def hog(server: Server, command: int) -> Iterator[int]:
    """A client whose request holds 12 MiB for as long as it likes; yields the pid of its worker."""
    others = set(server.serving())
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(15)
        client.connect(str(server.socket))
        receive(client, GREETING)
        header = struct.pack(">IHHQQI", 0x25609513, 0, command, 7, 0, 13 * MIB)
        client.sendall(header + bytes(12 * MIB if command == WRITE else 0))
        (worker,) = eventually(lambda: set(server.serving()) - others)
        size = 12 * MIB
        eventually(lambda: worker.memory_full_info().uss > size)
        eventually(lambda: worker.status() == "sleeping")
        yield worker.pid


def writes(client: Any) -> bool:
    """Return whether a large write succeeds, for which there may be no memory yet."""
    with suppress(libnbd().Error):
        client.pwrite(bytes(8 * MIB), 0)
        return True
    return False


def reads(client: Any) -> bool:
    """Return whether a large read succeeds."""
    with suppress(libnbd().Error):
        return bool(client.pread(8 * MIB, 0)[8:16] == struct.pack(">Q", 8))
    return False


@THREADS
def test_writes_are_refused_while_another_client_holds_the_memory(threads: str) -> None:
    with Server(*BUDGET, "-t", threads, "memory", "64M") as server:
        with connected(server.uri) as client:
            client.pwrite(bytes(14 * MIB), 0)
        eventually(lambda: not server.serving())
        with hog(server, WRITE) as worker, connected(server.uri) as client:
            for _ in range(3):
                with pytest.raises(libnbd().Error, match="ENOMEM"):
                    client.pwrite(bytes(8 * MIB), 0)
            client.pwrite(bytes(3 * MIB), 0)
            client.pwrite(b"small", 0)
            assert client.pread(5, 0) == b"small"
            assert len(client.pread(14 * MIB, 0)) == 14 * MIB  # from the memory of the disk
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: writes(client))
        assert server.log.count(TOLD) == 1


@THREADS
def test_reads_are_refused_while_another_client_does_not_take_its_own(threads: str) -> None:
    with Server(*BUDGET, "-t", threads, "pattern", "64M") as server:
        with connected(server.uri) as client:
            with hog(server, READ):
                with pytest.raises(libnbd().Error, match="ENOMEM"):
                    client.pread(8 * MIB, 0)
                assert client.pread(8, 8) == struct.pack(">Q", 8)
            eventually(lambda: reads(client))  # it has left


@THREADS
def test_memory_of_large_requests_is_given_back_when_they_are_answered(threads: str) -> None:
    with Server("-o", "-t", threads, "null", "256M") as server, connected(server.uri) as client:
        for _ in range(2):
            client.pwrite(bytes(48 * MIB), 0)
        (worker,) = server.serving()
        eventually(lambda: worker.memory_full_info().uss < 32 * MIB)
