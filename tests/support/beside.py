"""The same requests to nbdfork and to nbdkit, whose outcomes must be the same."""

import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.harness import NBDFORK, SECONDS, eventually, need
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


@contextmanager
def served_by_nbdkit(directory: Path, *arguments: str | Path) -> Iterator[Path]:
    """Let nbdkit serve in *directory*, and yield its socket."""
    need("nbdkit")
    path, pidfile = directory / "nbdkit.sock", directory / "nbdkit.pid"
    command = ["nbdkit", "-f", "-n", "-U", str(path), "-P", str(pidfile), *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: pidfile.exists() and pidfile.read_text())  # written once it listens
        yield path
    finally:
        process.terminate()
        process.wait(SECONDS)
