"""Many clients at once, and many one after another: all data are right, and nothing is left behind.

As a test this is short.  `make soak` has 1,000 clients at once and 100,000 connections; the numbers
are taken from the environment, SOAK_CLIENTS and SOAK_CONNECTIONS.
"""

import hashlib
import os
import resource
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.support.harness import Server, eventually
from tests.support.raw import Client

CLIENTS = int(os.environ.get("SOAK_CLIENTS", "100"))
CONNECTIONS = int(os.environ.get("SOAK_CONNECTIONS", "1000"))

BLOCK = 4096
REQUESTS = 20
"""Of each of the clients that are there at once, to write and as many to read."""

IN_PROGRESS = 4
"""So many of the clients that come one after another are there at the same time."""

ROUNDS = 5
"""So many times it is looked for what was left behind."""


class Traces(NamedTuple):
    """What a server that serves nobody has.  *memory*: of the supervisor alone, in bytes."""

    descriptors: int
    memfds: int
    temporary: tuple[str, ...]
    memory: int


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Let this process have a socket for each client, and the server, too."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def server(clients: int) -> Iterator[tuple[Server, Path]]:
    """Start a server for so many *clients*; yield it, and the directory of its temporary files."""
    with tempfile.TemporaryDirectory() as private:
        size = clients * REQUESTS * BLOCK
        limits = ("--max-clients", str(clients), "--max-clients-per-address", "0")
        words = ("-o", *limits, "memory", str(size))
        with Server(*words, environment={"TMPDIR": private}) as on:
            yield on, Path(private)


def content(client: int, request: int) -> bytes:
    """Return a block that no other request writes."""
    return hashlib.sha256(struct.pack("QQ", client, request)).digest() * (BLOCK // 32)


def place(client: int, request: int) -> int:
    return (client * REQUESTS + request) * BLOCK


def is_right(connection: Client, client: int) -> bool:
    """Return whether *connection* reads what *client* has written."""
    found = connection.read(place(client, 0), REQUESTS * BLOCK)
    return found == b"".join(content(client, request) for request in range(REQUESTS))


def test_many_clients_at_once() -> None:
    """Each writes where no other does, and another reads it, while all are connected."""
    with server(CLIENTS) as (on, _), ExitStack() as stack, ThreadPoolExecutor(8) as pool:

        def write(client: int) -> Client:
            connection = Client(on).greet()
            stack.callback(connection.socket.close)
            for request in range(REQUESTS):
                assert connection.write(content(client, request), place(client, request)) == 0
            return connection

        connections = list(pool.map(write, range(CLIENTS)))
        assert len(on.serving()) == CLIENTS
        others = connections[1:] + connections[:1]
        assert all(pool.map(is_right, others, range(CLIENTS)))
        assert all(pool.map(is_right, connections, range(CLIENTS)))


def one_after_another(on: Server, first: int, last: int) -> None:
    """Connect again and again, and check what is written in each connection."""

    def connect(number: int) -> None:
        connection = Client(on).greet()
        try:
            slot = number % IN_PROGRESS
            assert connection.write(content(number, 0), place(slot, 0)) == 0
            assert connection.read(place(slot, 0), BLOCK) == content(number, 0)
        finally:
            connection.socket.close()

    def line(start: int) -> None:
        for number in range(start, last, IN_PROGRESS):
            connect(number)

    with ThreadPoolExecutor(IN_PROGRESS) as pool:
        for done in [pool.submit(line, first + start) for start in range(IN_PROGRESS)]:
            done.result()


def traces(on: Server, private: Path) -> Traces:
    """Return what is left when all clients have gone; the pool has its size and no zombies."""
    eventually(lambda: not on.serving() and 4 <= len(on.workers()) <= 8 and not zombies(on))
    supervisor = psutil.Process(on.pid)
    links = []
    for fd in Path(f"/proc/{on.pid}/fd").iterdir():
        links.append(os.readlink(fd))
    return Traces(
        len(links),
        sum("/memfd:" in link for link in links),
        tuple(sorted(os.listdir(private))),
        supervisor.memory_full_info().uss,
    )


def zombies(on: Server) -> list[int]:
    found = []
    for process in psutil.Process(on.pid).children(recursive=True):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            pass
    return found


def test_many_clients_one_after_another_leave_nothing_behind() -> None:
    with server(16) as (on, private):
        one_after_another(on, 0, CONNECTIONS // ROUNDS)
        before = traces(on, private)
        for number in range(1, ROUNDS):
            start = number * CONNECTIONS // ROUNDS
            one_after_another(on, start, start + CONNECTIONS // ROUNDS)
            after = traces(on, private)
            assert after[:-1] == before[:-1]
            assert after.memory - before.memory < 1 << 20
        assert not on.log
