"""Streams of requests, made up at random, and played to the request loop with and without its twin
in C: `python -m tests.support.twins COUNT [FIRST]`.

What a client is told, what is on the disk afterwards, what is counted and how it ends must be the
same, however the stream is cut into pieces.  Each stream is made of a number, which is told if it
shows a difference.
"""

import errno
import logging
import os
import random
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from nbdfork.backend.gate import LARGE, Gate
from nbdfork.filters._part import PartExport
from nbdfork.plugin import BlockSize, DescriptorExport, Export, FileRange
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.replies import ExtendedReplies, SimpleReplies, StructuredReplies
from nbdfork.protocol.runs import RunChannel, RunTransmission
from nbdfork.protocol.stream import Stream
from nbdfork.protocol.transmission import Session, Transmission
from tests.support.requests import Counted
from tests.support.stream import Recorder

DIALECTS = (SimpleReplies, StructuredReplies, ExtendedReplies)
SIZE = 300 * 1024

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, FAST, PAYLOAD_LEN = 1, 2, 4, 16, 32


class Blocks(DescriptorExport):
    """A file in blocks."""

    minimum = 1

    def block_size(self) -> BlockSize:
        return BlockSize(self.minimum)


class Full(Export):
    """Reads as zeroes, and has no space for anything."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/full", os.O_RDWR)

    def get_size(self) -> int:
        return SIZE

    def file_range(self) -> FileRange:
        return FileRange(self._fd, 0, SIZE)

    def pread(self, count: int, offset: int) -> bytes:
        return os.pread(self._fd, count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if os.pwrite(self._fd, data, offset) != len(data):
            raise OSError(errno.EIO, "in part")

    def flush(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._fd)


class Script(NamedTuple):
    """A stream, where it is cut, and what it is played to."""

    dialect: type[SimpleReplies]
    kind: str
    minimum: int
    read_only: bool
    stream: bytes
    cuts: list[int]


KINDS = ("plain", "plain", "plain", "short", "part", "beyond", "full")


def made_up(number: int) -> Script:
    """Return the stream of that number."""
    chance = random.Random(number)
    dialect = chance.choice(DIALECTS)
    minimum = chance.choice([1, 1, 1, 512])
    count = chance.choice([1, 3, 10, 40])
    oddness = chance.choice([0.0, 0.05, 0.5])
    is_large = chance.random() < 0.1  # payloads that a socket may give without a copy
    if is_large:
        count, minimum = min(count, 10), 1
    stream = b"".join(_request(chance, dialect, minimum, oddness, is_large) for _ in range(count))
    if chance.random() < 0.2:
        stream = stream[: chance.randrange(len(stream) + 1)]
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.choice([0, 1, 4, 30])))
    kind = chance.choice(KINDS)
    return Script(dialect, kind, minimum, chance.random() < 0.1, stream, cuts)


def _request(
    chance: random.Random,
    dialect: type[SimpleReplies],
    minimum: int,
    oddness: float,
    is_large: bool,
) -> bytes:
    command = chance.choice([READ, READ, WRITE, WRITE, WRITE])
    most = chance.choice([1, 64, 4096, 16384, 100_000]) if chance.random() < 0.97 else SIZE
    length = max(1, chance.randrange(most + 1) // minimum) * minimum
    if is_large and chance.random() < 0.8:
        command, length = WRITE, chance.randrange(LARGE, SIZE)
    offset = chance.randrange(SIZE - min(length, SIZE) + 1) // minimum * minimum
    flags = PAYLOAD_LEN if dialect is ExtendedReplies and command == WRITE else 0
    magic = 0x21E41C71 if dialect is ExtendedReplies else 0x25609513
    if chance.random() < oddness:
        command, flags, offset, length, magic = _odd(chance, command, flags, offset, length, magic)
    cookie = chance.getrandbits(64)
    if dialect is ExtendedReplies:
        header = struct.pack(">IHHQQQ", magic, flags, command, cookie, offset, length)
        has_payload = command == WRITE or flags & PAYLOAD_LEN
    else:
        length &= 0xFFFFFFFF
        header = struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)
        has_payload = command == WRITE
    return header + (chance.randbytes(length) if has_payload and length <= 1 << 20 else b"")


def _odd(
    chance: random.Random, command: int, flags: int, offset: int, length: int, magic: int
) -> tuple[int, int, int, int, int]:
    """Make one thing of a request odd."""
    what = chance.randrange(9)
    if what < 3:
        command = chance.choice([FLUSH, FLUSH, TRIM, CACHE, ZEROES, STATUS, 99])
    elif what < 5:
        flags ^= chance.choice([FUA, FUA, DF, PAYLOAD_LEN, NO_HOLE, FAST, 0x8000])
    elif what == 5:
        offset = chance.choice([SIZE, SIZE - 1, SIZE - length, SIZE - length + 1, offset + 1])
    elif what == 6:
        offset = chance.choice([1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - length])
    elif what == 7:
        length = chance.choice([0, 65535, 65536, (1 << 18) - 1, 1 << 18, SIZE, SIZE + 1])
    elif chance.random() < 0.1:
        length = chance.choice([1 << 26, (1 << 32) - 1, (1 << 64) - 1])
    elif chance.random() < 0.5:
        command = DISC
    else:
        magic ^= 1 << chance.randrange(32)
    return command, flags, offset % (1 << 64), length, magic


@contextmanager
def _disk(script: Script) -> Iterator[tuple[Export, int]]:
    """Yield the disk of a script, which begins with the same bytes each time, and its file."""
    fd = os.memfd_create("twins")
    os.pwrite(fd, random.Random(1).randbytes(4096) * 50, 8192)  # the rest is a hole
    os.ftruncate(fd, SIZE + 1536)
    export: Export
    if script.kind == "full":
        export = Full()
    else:
        export = Blocks(os.dup(fd), writable=True)
        Blocks.minimum = script.minimum
        if script.kind == "part":
            export = PartExport(export, 1024, SIZE, "a part")
        elif script.kind == "beyond":
            export = PartExport(export, 1536, SIZE - 4096, "a part")
    if script.kind == "short":  # it is cut off while it is served
        os.ftruncate(fd, 40000)
    try:
        yield export, fd
    finally:
        export.close()
        os.close(fd)


class Outcome(NamedTuple):
    """What came of a script."""

    told: bytes
    disk: bytes
    counted: tuple[int, ...]
    end: str


Played: TypeAlias = tuple[Transmission, Channel, Callable[[], bytes]]
"""What a script is played to, and what returns what the client was told in the end."""


def _play(script: Script, make: Callable[[Session, Counted], Played]) -> Outcome:
    with _disk(script) as (export, fd):
        gate = Gate(export, script.read_only)
        counted = Counted()
        transmission, channel, told = make(Session(gate, replies=script.dialect), counted)
        end = "left"
        try:
            transmission.serve()
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
        channel.close()
        return Outcome(told(), os.pread(fd, SIZE + 4096, 0), counted.total() or (0, 0, 0, 0), end)


def pieces(script: Script) -> list[bytes]:
    """Return the stream, cut."""
    places = [0, *script.cuts, len(script.stream)]
    return [script.stream[start:end] for start, end in pairwise(places) if start < end]


def by_python(script: Script) -> Outcome:
    """Play a script to the reference, all at once."""

    def make(session: Session, counted: Counted) -> Played:
        recorder = Recorder(*([script.stream] if script.stream else []))
        channel = Channel(recorder)
        return Transmission(channel, session, counted), channel, lambda: recorder.sent

    return _play(script, make)


def in_runs(script: Script, cut: bool) -> Outcome:
    """Play a script to the twin, without a socket."""

    def make(session: Session, counted: Counted) -> Played:
        recorder = Recorder(*(pieces(script) if cut else [script.stream] if script.stream else []))
        channel = RunChannel(recorder)
        return RunTransmission(channel, session, counted), channel, lambda: recorder.sent

    return _play(script, make)


def on_a_socket(script: Script) -> Outcome:
    """Play a script to the twin on a socket, by a client that sends its pieces as it likes."""
    ours, theirs = socket.socketpair()
    told = bytearray()

    def say() -> None:
        for piece in pieces(script):
            try:
                theirs.sendall(piece)
            except OSError:  # it has ended before
                return
        theirs.shutdown(socket.SHUT_WR)

    def hear() -> None:
        while data := theirs.recv(1 << 20):
            told.extend(data)

    threads = [threading.Thread(target=say), threading.Thread(target=hear)]

    def finish() -> bytes:
        for thread in threads:
            thread.join()
        theirs.close()
        return bytes(told)

    def make(session: Session, counted: Counted) -> Played:
        stream: Stream = ours
        channel = RunChannel(stream, spins=True)
        for thread in threads:
            thread.start()
        return RunTransmission(channel, session, counted), channel, finish

    return _play(script, make)


def check(number: int, *, sockets: bool = True) -> bool:
    """Play a script in all ways; return whether the twin carried out anything."""
    script = made_up(number)
    reference = by_python(script)
    outcomes = {"at once": in_runs(script, False), "cut": in_runs(script, True)}
    if sockets:
        outcomes["on a socket"] = on_a_socket(script)
    for name, outcome in outcomes.items():
        assert outcome == reference, f"stream {number}, {name}: {script[:4]}"
    return reference.counted[0] > 0


def main() -> None:
    logging.disable()
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for number in range(first, first + count):
        check(number, sockets=number % 8 == 0)
        if number % 10000 == 9999:
            print(f"{number + 1} streams", file=sys.stderr, flush=True)
    print(f"no difference in {count} streams from {first} on")


if __name__ == "__main__":
    main()
