"""A client's stream without a socket: what it says is given, what it is told is recorded."""

from collections.abc import Iterable

from nbdfork.types import Buffer


class Recorder:
    """A stream that gives what it was told to, in its pieces, and counts the calls."""

    def __init__(self, *pieces: bytes, takes: int = 1 << 30) -> None:
        self.pieces: list[Buffer] = list(pieces)
        self.takes = takes
        self.calls: list[str] = []
        self.sent = b""

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        self.calls.append("recv")
        if not self.pieces:
            return 0
        piece = memoryview(self.pieces.pop(0))
        if len(piece) > len(buffer):
            self.pieces.insert(0, piece[len(buffer) :])
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        return count

    def sendmsg(self, buffers: Iterable[Buffer], /) -> int:
        self.calls.append("send")
        data = b"".join(bytes(part) for part in buffers)[: self.takes]
        self.sent += data
        return len(data)

    def settimeout(self, value: float | None, /) -> None: ...

    def shutdown(self, how: int, /) -> None: ...

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.calls.append("close")
