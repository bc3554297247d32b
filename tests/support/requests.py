"""Requests as bytes, and what a request loop has counted of them."""

import struct


def request(command: int, offset: int = 0, length: int = 0, payload: bytes = b"") -> bytes:
    """Return a request with simple headers."""
    return struct.pack(">IHHQQI", 0x25609513, 0, command, 1, offset, length) + payload


class Counted:
    """What `Count` was told, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int, int]] = []
        self.nanoseconds: list[int] = []

    def __call__(self, requests: int, read: int, written: int, errors: int, spent: int) -> None:
        self.batches.append((requests, read, written, errors))
        self.nanoseconds.append(spent)

    def total(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(*self.batches, strict=True)))
