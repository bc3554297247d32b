"""The SFTP of the ssh plugin, and servers that misbehave as no real one would."""

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from nbdfork.plugins._link.reconnecting import LinkLost
from nbdfork.plugins._link.timeout import Patience
from nbdfork.plugins.ssh.sftp import Sftp

from nbdfork.plugin import Server
from tests.support.harness import SECONDS, refused
from tests.support.noise import CONTENT

PATIENCE = Patience(Server().wait, SECONDS)

Reply = Callable[[int, bytes], bytes | None]
"""What a server answers to a packet of a type, with what is after the type; at None it ends."""


def packet(kind: int, number: bytes, *parts: bytes | int) -> bytes:
    body = b"".join(struct.pack(">I", p) if isinstance(p, int) else p for p in parts)
    return struct.pack(">IB", 1 + len(number) + len(body), kind) + number + body


def data(number: bytes, content: bytes) -> bytes:
    return packet(103, number, len(content), content)


def status(number: bytes, code: int, text: bytes = b"") -> bytes:
    return packet(101, number, code, len(text), text, 0)


@contextmanager
def conversation(reply: Reply) -> Iterator[Sftp]:
    """Talk to a server that answers by *reply*."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    def serve() -> None:
        with open(theirs_in, "rb") as requests, open(theirs_out, "wb", buffering=0) as replies:
            while head := requests.read(5):
                length, kind = struct.unpack(">IB", head)
                answer = reply(kind, requests.read(length - 1))
                if answer is None:
                    return
                replies.write(answer)

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield Sftp(ours_out, ours_in, PATIENCE)
    finally:
        os.close(ours_out)
        server.join()
        os.close(ours_in)


def read(sftp: Sftp, count: int, offset: int = 0) -> bytes:
    target = bytearray(count)
    return bytes(target[: sftp.read(b"h", memoryview(target), offset)])


def test_reads_that_bring_less_than_was_asked_for() -> None:
    def reply(kind: int, body: bytes) -> bytes:
        offset, count = struct.unpack(">QI", body[-12:])
        part = CONTENT[offset : offset + min(count, 1000)]
        return data(body[:4], part) if part else status(body[:4], 1)

    with conversation(reply) as sftp:
        assert read(sftp, 100_000, 7) == CONTENT[7:100_007]
        assert read(sftp, 5000, len(CONTENT) - 3000) == CONTENT[-3000:]
        assert read(sftp, 10, len(CONTENT)) == b""


def test_replies_in_another_order() -> None:
    waiting: list[bytes] = []

    def reply(kind: int, body: bytes) -> bytes:
        offset, count = struct.unpack(">QI", body[-12:])
        waiting.insert(0, data(body[:4], CONTENT[offset : offset + count]))
        return b"".join(waiting) if len(waiting) == 4 else b""

    with conversation(reply) as sftp:
        assert read(sftp, 128 * 1024) == CONTENT[: 128 * 1024]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda number: None, "the connection is lost"),
        (lambda number: b"Welcome to this host!", "1466264675 bytes.* not SFTP.*Welcome to"),
        (lambda number: struct.pack(">IB", 0, 103) + number, "a packet of 0 bytes"),
        (lambda number: data(b"\xff\xff\xff\xfe", b"x"), "a request that was never made"),
        (lambda number: data(number, b"x" * 11), "11 bytes for a request"),
        (lambda number: data(number, b""), "0 bytes for a request"),
        (lambda number: packet(103, number, 10, b"short"), "10 bytes for a request"),
        (lambda number: packet(103, number), "buffer"),
    ],
    ids=["end", "text", "empty", "number", "more", "none", "short", "cut-off"],
)
def test_what_is_not_sftp(answer: Callable[[bytes], bytes | None], message: str) -> None:
    with conversation(lambda kind, body: answer(body[:4])) as sftp:
        with pytest.raises(LinkLost, match=message):
            read(sftp, 10)
        assert sftp.lost is not None
        with pytest.raises(LinkLost):  # at once, for good
            read(sftp, 10)


@pytest.mark.parametrize(
    ("answer", "number", "message"),
    [
        (lambda number: status(number, 2, b"gone"), errno.ENOENT, "the server says: gone"),
        (lambda number: status(number, 3), errno.EACCES, "the server says: status 3"),
        (lambda number: status(number, 4, b"full"), errno.EIO, "the server says: full"),
        (lambda number: status(number, 8, b"no"), errno.EOPNOTSUPP, "the server says: no"),
        (lambda number: status(number, 0), errno.EIO, "unexpected type 101"),
        (lambda number: packet(102, number, 1, b"h"), errno.EIO, "unexpected type 102"),
        (lambda number: packet(101, number), errno.EIO, "unexpected type 101"),
    ],
    ids=["2", "3", "4", "8", "0", "handle", "cut-off"],
)
def test_what_a_server_refuses(answer: Callable[[bytes], bytes], number: int, message: str) -> None:
    with conversation(lambda kind, body: answer(body[:4])) as sftp:
        for _ in range(2):
            with refused(number, message):
                read(sftp, 10)


def test_a_server_that_does_not_tell_the_size() -> None:
    with conversation(lambda kind, body: packet(105, body[:4], 0)) as sftp:
        assert sftp.attributes(b"h") == (None, None)
    with conversation(lambda kind, body: packet(105, body[:4], 1)) as sftp:
        with refused(errno.EIO, "cut off"):
            sftp.attributes(b"h")
    with conversation(lambda kind, body: packet(105, body[:4], 7, 0, 9, 1, 2, 0o644)) as sftp:
        assert sftp.attributes(b"h") == (9, 0o644)


def test_a_server_that_is_none() -> None:
    with conversation(lambda kind, body: packet(101, b"", 0, 0, 0)) as sftp:
        with pytest.raises(LinkLost):
            sftp.start()
    with conversation(lambda kind, body: packet(2, b"", 3)) as sftp:
        sftp.start()
        assert not sftp.can_fsync
