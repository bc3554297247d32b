"""The same requests to nbdfork and to nbdkit, whose outcomes must be the same."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.far import far_nbdkit
from tests.support.harness import NBDFORK, Server, need
from tests.support.libnbd import libnbd

SERVERS = {"nbdfork": [*NBDFORK, "-s", "-n"], "nbdkit": ["nbdkit", "-s", "--exit-with-parent"]}


@contextmanager
def captive(server: str, arguments: Sequence[str | Path]) -> Iterator[Any]:
    """Run a server for one connection of libnbd."""
    handle = libnbd().NBD()
    handle.set_strict_mode(0)
    handle.connect_command([*SERVERS[server], *map(str, arguments)])
    yield handle
    handle.shutdown()


def outcome(handle: Any, method: str, *arguments: Any) -> Any:
    """Return the result of a request, or the name of its error."""
    try:
        return getattr(handle, method)(*arguments)
    except libnbd().Error as error:
        return error.errno


def outcomes(
    server: str, arguments: Sequence[str | Path], script: Sequence[tuple[Any, ...]]
) -> list[Any]:
    with captive(server, arguments) as handle:
        return [outcome(handle, *request) for request in script]


def compare(
    tmp_path: Path, arguments: Sequence[str], script: Sequence[tuple[Any, ...]], content: bytes
) -> list[Any]:
    """Let both servers serve a file of *content*, and demand the same results and the same file."""
    need("nbdkit")
    found = {}
    for server in SERVERS:
        disk = tmp_path / server
        disk.write_bytes(content)
        found[server] = outcomes(server, [*arguments[:1], "file", disk, *arguments[1:]], script)
        found[server].append(disk.read_bytes())
    assert found["nbdfork"] == found["nbdkit"]
    return found["nbdfork"]


def random_script(size: int, seed: int, length: int = 80) -> list[tuple[Any, ...]]:
    """Return requests, some of which reach past the end."""
    draw = random.Random(seed)
    script: list[tuple[Any, ...]] = []
    for _ in range(length):
        count, offset = draw.randrange(1, 9000), draw.randrange(size)
        script.append(
            draw.choice(
                [
                    ("pread", count, offset),
                    ("pwrite", draw.randbytes(count), offset),
                    ("pwrite", bytes(count), offset),
                    ("trim", count, offset),
                    ("cache", count, offset),
                    ("flush",),
                ]
            )
        )
    return [*script, ("pread", size, 0), ("get_size",)]


EVERYTHING = [
    ("pread", 512, 0),
    ("pwrite", b"data", 0),
    ("trim", 512, 0),
    ("zero", 512, 0),
    ("cache", 512, 0),
    ("flush",),
]

FAST = 16  # LIBNBD_CMD_FLAG_FAST_ZERO


Use = Callable[[str], Any]
"""What is done at the URI of a server."""


@contextmanager
def served_by_nbdkit(directory: Path, *arguments: str | Path) -> Iterator[str]:
    """Let nbdkit serve, with its files in *directory*, and yield the URI."""
    with far_nbdkit(directory, "-n", *arguments) as far:
        yield far.uri
        far.stop()


@contextmanager
def served_by_nbdfork(directory: Path, *arguments: str | Path) -> Iterator[str]:
    """Let nbdfork serve, and yield the URI."""
    with Server("-n", *arguments) as server:
        yield server.uri


SERVED_BY = (served_by_nbdkit, served_by_nbdfork)


def both(directory: Path, use: Use, *arguments: str | Path) -> tuple[Any, Any]:
    """Return what *use* finds at the URI of nbdkit, and of nbdfork."""
    found = []
    for served in SERVED_BY:
        with served(directory, *arguments) as uri:
            found.append(use(uri))
    return found[0], found[1]
