"""Golden exchanges: what a client sends and what the server must answer, byte for byte.

A file in tests/golden is a list of lines:

    $ ARGUMENTS        start the server with them; NAME.py is tests/samples/NAME.py
    C HEX ...          the client sends
    S HEX ...          the server must answer exactly this; TEXT is a length (u32) and that
                       many bytes of UTF-8; ERROR:HEX is the payload of an ERROR chunk with its
                       length (u32; ERROR64:HEX: u64) in front, any text in it
    E                  the server must close the connection
    ---                the same again with a new connection
    GREET, BYE         the fixed newstyle greeting; DISC and the server's close

HEX may be XX*N, N bytes of XX; a `#` begins a comment.
"""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import GOLDEN, SAMPLES

_MACROS = {
    "GREET": ["S 4e42444d41474943 49484156454f5054 0003", "C 00000003"],
    "BYE": ["C 25609513 0000 0002 0000000000000000 0000000000000000 00000000", "E"],
}


class Text(NamedTuple):
    """TEXT, or the payload of an ERROR chunk, with a length of so many bytes in front."""

    length_size: int
    error: bytes | None


Part = bytes | Text

Step = tuple[str, list[Part]]
"""C, S or E, and the bytes."""


def files() -> list[Path]:
    """Return all golden exchanges."""
    return sorted(GOLDEN.glob("*.txt"))


def arguments(path: Path) -> list[str]:
    """Return the server's arguments."""
    match = re.search(r"^\$ (.*)$", path.read_text(), re.MULTILINE)
    assert match is not None, path
    return [_plugin(word) for word in match[1].split()]


def _plugin(word: str) -> str:
    if word == "memory.py":
        return "memory"
    return str(SAMPLES / word) if word.endswith(".py") else word


def connections(path: Path) -> list[list[Step]]:
    """Return the steps of each connection."""
    found: list[list[Step]] = [[]]
    for line in _lines(path):
        if line == "---":
            found.append([])
        else:
            kind, *words = line.split()
            found[-1].append((kind, [_bytes(word) for word in words]))
    return found


def _lines(path: Path) -> Iterator[str]:
    for raw in path.read_text().splitlines():
        line = raw.split("#")[0].strip()
        if line and not line.startswith("$"):
            yield from _MACROS.get(line, [line])


def _bytes(word: str) -> Part:
    if word == "TEXT":
        return Text(4, None)
    if word.startswith("ERROR"):
        kind, _, error = word.partition(":")
        return Text(8 if kind == "ERROR64" else 4, bytes.fromhex(error))
    pattern, _, count = word.partition("*")
    return bytes.fromhex(pattern) * int(count or 1)


def sent(parts: list[Part]) -> bytes:
    """Return what the client sends in a step."""
    return b"".join(part for part in parts if isinstance(part, bytes))


class Player:
    """The client's side of one connection."""

    def __init__(self, client: socket.socket) -> None:
        client.settimeout(30)
        self._client = client

    def play(self, steps: list[Step], piece: int) -> None:
        """Go through *steps*, sending *piece* bytes at a time (0: all in one)."""
        for kind, parts in steps:
            if kind == "C":
                self.send(sent(parts), piece)
            else:
                self.check(kind, parts)

    def play_ahead(self, steps: list[Step]) -> None:
        """Send all that the client has to say in one go, then look at the answers."""
        for kind, parts in steps:
            if kind == "C":
                self.send(sent(parts), 0)
        for kind, parts in steps:
            if kind != "C":
                self.check(kind, parts)

    def send(self, data: bytes, piece: int) -> None:
        """Send *data*; that the server has closed already is for `check` to judge."""
        step = piece or len(data)
        try:
            for start in range(0, len(data), step):
                self._client.sendall(data[start : start + step])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def check(self, kind: str, parts: list[Part]) -> None:
        """Receive and compare what the server must have sent."""
        if kind == "E":
            assert self._receive(1) == b""
        for part in parts:
            if isinstance(part, Text):
                self._receive_text(part)
            else:
                assert self._receive(len(part)).hex() == part.hex()

    def _receive_text(self, expected: Text) -> None:
        length = int.from_bytes(self._receive(expected.length_size), "big")
        text = self._receive(length)
        assert len(text) == length
        if expected.error is not None:
            assert text[:4].hex() == expected.error.hex()
            assert int.from_bytes(text[4:6], "big") == length - 6
            text = text[6:]
        assert text.decode()

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self._client.recv(count - len(data))
            except ConnectionResetError:
                break
            if not more:
                break
            data += more
        return data
