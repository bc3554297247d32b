"""Requests as bytes, and what a request loop has counted of them."""

import struct


def request(command: int, offset: int = 0, length: int = 0, payload: bytes = b"") -> bytes:
    """Return a request with simple headers."""
    return struct.pack(">IHHQQI", 0x25609513, 0, command, 1, offset, length) + payload


class Counted:
    """A meter that remembers what it was told, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int, int]] = []
        self.nanoseconds: list[int] = []
        self.busy_since = 0
        self.is_closing = False

        self.held = 0
        self.most_held = 1 << 40

    peer = "of a test"

    def hold(self, count: int) -> bool:
        fits = self.held + count <= self.most_held
        self.held += count * fits
        return fits

    def let_go(self, count: int) -> None:
        self.held -= count

    def set_closing(self) -> None:
        self.is_closing = True

    def set_busy(self, since: int) -> None:
        self.busy_since = since

    def count(
        self, requests: int, bytes_read: int, bytes_written: int, errors: int, nanoseconds: int
    ) -> None:
        self.batches.append((requests, bytes_read, bytes_written, errors))
        self.nanoseconds.append(nanoseconds)

    def total(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(*self.batches, strict=True)))
