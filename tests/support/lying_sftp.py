"""An SFTP server that misbehaves as no real one would, in the way that its argument names.

It is a program that speaks on its standard input and output, as sftp-server(8) does, and imports
nothing but the standard library, so it starts in no time.  What its lie is not about, it does as it
should: it serves one file, whatever it is called.
"""

import os
import random
import struct
import sys
from collections.abc import Callable

SIZE = 1 << 20
CONTENT = random.Random(14).randbytes(SIZE)

INIT, OPEN, CLOSE, READ, WRITE, FSTAT, EXTENDED = 1, 3, 4, 5, 6, 8, 200
VERSION, STATUS, HANDLE, DATA, ATTRS = 2, 101, 102, 103, 105
EOF = 1

BAD_TEXT = b"\xff\x1b[31m no\nsuch\0 thing " + b"x" * 5000

Answer = Callable[[bytes, bytes], None]
"""Answers a request, of a number and with what follows."""


def send(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def packet(kind: int, number: bytes, *parts: bytes | int) -> bytes:
    body = b"".join(struct.pack(">I", p) if isinstance(p, int) else p for p in parts)
    return struct.pack(">IB", 1 + len(number) + len(body), kind) + number + body


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def status(number: bytes, code: int, said: bytes = b"") -> bytes:
    return packet(STATUS, number, code, text(said), 0)


def part(body: bytes) -> bytes:
    offset, count = struct.unpack(">QI", body[-12:])
    return CONTENT[offset : offset + count]


def data(number: bytes, content: bytes) -> bytes:
    return packet(DATA, number, text(content)) if content else status(number, EOF)


def good(kind: int, number: bytes, body: bytes) -> bytes:
    """Return the answer that is as it should be."""
    match kind:
        case 1:
            return packet(VERSION, b"", 3, text(b"fsync@openssh.com"), text(b"1"))
        case 3:
            return packet(HANDLE, number, text(b"handle"))
        case 5:
            return data(number, part(body))
        case 8:
            return packet(ATTRS, number, 5, struct.pack(">Q", SIZE), 0o100644)
    return status(number, 0)


# -- what is sent instead ---------------------------------------------------------------------


def saying(make: Callable[[bytes, bytes], bytes]) -> Answer:
    return lambda number, body: send(make(number, body))


def sized(size: int) -> Answer:
    return saying(lambda n, b: packet(ATTRS, n, 1, struct.pack(">Q", size)))


def endless(piece: bytes) -> Answer:
    def answer(number: bytes, body: bytes) -> None:
        while True:
            send(piece * 64)

    return answer


def silent(number: bytes, body: bytes) -> None:
    while os.read(0, 65536):
        pass
    sys.exit()


def gone(number: bytes, body: bytes) -> None:
    sys.exit()


def refusing(code: int, said: bytes = b"") -> Answer:
    return saying(lambda n, b: status(n, code, said))


LIES: dict[str, dict[int, Answer]] = {
    "nothing": {},
    # instead of the version
    "a banner": {INIT: saying(lambda n, b: b"Welcome to \x1b[1mthis host!\n")},
    "version 2": {INIT: saying(lambda n, b: packet(VERSION, b"", 2))},
    "a version that is cut off": {INIT: saying(lambda n, b: packet(VERSION, b"", b"\0"))},
    "a status instead of the version": {INIT: saying(lambda n, b: status(bytes(4), 4))},
    "silence instead of the version": {INIT: silent},
    "no version": {INIT: gone},
    "an endless line": {INIT: endless(b"x" * 512)},
    # instead of a handle
    "no such file": {OPEN: refusing(2, BAD_TEXT)},
    "no permission": {OPEN: refusing(3, BAD_TEXT)},
    "no handle": {OPEN: saying(lambda n, b: packet(HANDLE, n, text(b"")))},
    "a handle of 257 bytes": {OPEN: saying(lambda n, b: packet(HANDLE, n, text(b"h" * 257)))},
    "success instead of a handle": {OPEN: refusing(0)},
    "silence instead of a handle": {OPEN: silent},
    "hanging up instead of a handle": {OPEN: gone},
    # instead of the size
    "a size of 2^63": {FSTAT: sized(1 << 63)},
    "a size of 2^64-1": {FSTAT: sized((1 << 64) - 1)},
    "no size": {FSTAT: saying(lambda n, b: packet(ATTRS, n, 0))},
    "a size that is cut off": {FSTAT: saying(lambda n, b: packet(ATTRS, n, 1, 0))},
    "a directory": {
        FSTAT: saying(lambda n, b: packet(ATTRS, n, 5, struct.pack(">Q", 512), 0o40755))
    },
    "silence instead of the size": {FSTAT: silent},
    # instead of content
    "a byte too many": {READ: saying(lambda n, b: data(n, part(b) + b"x"))},
    "data of no length": {READ: saying(lambda n, b: packet(DATA, n, text(b"")))},
    "data that is cut off": {READ: saying(lambda n, b: packet(DATA, n, 4096, b"x"))},
    "another number": {READ: saying(lambda n, b: data(b"\xff\xff\xff\xfe", part(b)))},
    "the end of the file": {READ: refusing(EOF)},
    "a failure": {READ: refusing(4, BAD_TEXT)},
    "status 4,000,000,000": {READ: refusing(4_000_000_000)},
    "success instead of data": {READ: refusing(0)},
    "a status that is cut off": {READ: saying(lambda n, b: packet(STATUS, n, b"\0"))},
    "a handle instead of data": {READ: saying(lambda n, b: packet(HANDLE, n, text(b"h")))},
    "a packet of 0 bytes": {READ: saying(lambda n, b: bytes(64))},
    "a packet of 4 GB": {READ: saying(lambda n, b: b"\xff\xff\xff\xff" + bytes(64))},
    "an unknown packet": {READ: saying(lambda n, b: packet(77, n, b"x"))},
    "the version again": {READ: saying(lambda n, b: good(INIT, n, b))},
    "endless data": {READ: endless(packet(DATA, bytes(4), text(b"x" * 512)))},
    "silence instead of data": {READ: silent},
    "hanging up instead of data": {READ: gone},
    # strange, but right
    "a byte at a time": {READ: saying(lambda n, b: data(n, part(b)[:999]))},
}


def exactly(count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = os.read(0, count - len(found))
        if not more:
            sys.exit()
        found += more
    return found


def main(lie: dict[int, Answer]) -> None:
    while True:
        length, kind = struct.unpack(">IB", exactly(5))
        body = exactly(length - 1)
        number, rest = (b"", body) if kind == INIT else (body[:4], body[4:])
        if kind in lie:
            lie[kind](number, rest)
        else:
            send(good(kind, number, rest))


if __name__ == "__main__":
    main(LIES[" ".join(sys.argv[1:])])
