"""The ways in which real clients reach a server, and a disk for it."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.harness import Server
from tests.support.noise import noise

MIB = 1024 * 1024


SIZE = 8 * MIB


TCP = ("-p", "0", "-i", "127.0.0.1")


NEWSTYLE = ("-n",)


@dataclass(frozen=True)
class Way:
    """How the clients of a test reach the server."""

    listen: tuple[str, ...] | None
    style: tuple[str, ...]

    def serve(self, *arguments: str | Path) -> Server:
        return Server(*self.style, *arguments, listen=self.listen)


WAYS = {
    "unix-oldstyle": Way(None, ()),
    "unix-newstyle": Way(None, NEWSTYLE),
    "tcp-oldstyle": Way(TCP, ()),
    "tcp-newstyle": Way(TCP, NEWSTYLE),
}


def make_disk(directory: Path, content: bytes | None = None) -> Path:
    """Return a new file of *content*, or of `SIZE` bytes of noise, that has all its blocks."""
    path = directory / "disk"
    path.write_bytes(noise(SIZE) if content is None else content)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # before this, st_blocks need not count what was written
    return path
