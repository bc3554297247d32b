"""Replies in the three dialects, byte for byte."""

import errno
from typing import TypeVar

import pytest

from nbdfork.plugin import Extent
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.replies import Chunk, ExtendedReplies, SimpleReplies, StructuredReplies
from tests.support.stream import Recorder

COOKIE = b"a cookie"

R = TypeVar("R", bound=SimpleReplies)


class Sent:
    """What has left of replies."""

    def __init__(self) -> None:
        self._stream = Recorder()
        self.channel = Channel(self._stream)

    def plain(self) -> bytes:
        self.channel.flush()
        return self._stream.sent


def sent_by(dialect: type[R]) -> tuple[R, Sent]:
    sent = Sent()
    return dialect(sent.channel), sent


def test_success() -> None:
    expected = {
        SimpleReplies: "67446698 00000000" + COOKIE.hex(),
        StructuredReplies: "67446698 00000000" + COOKIE.hex(),
        ExtendedReplies: "6e8a278c 0001 0000" + COOKIE.hex() + "0000000000000007" + "00" * 8,
    }
    for dialect, layout in expected.items():
        replies, sent = sent_by(dialect)
        replies.success(COOKIE, 7)
        assert sent.plain() == bytes.fromhex(layout)


def test_data() -> None:
    offset = (7).to_bytes(8, "big").hex()
    expected = {
        SimpleReplies: "67446698 00000000" + COOKIE.hex(),
        StructuredReplies: "668e33ef 0001 0001" + COOKIE.hex() + "0000000b" + offset,
        ExtendedReplies: "6e8a278c 0001 0001" + COOKIE.hex() + offset + "000000000000000b" + offset,
    }
    for dialect, layout in expected.items():
        replies, sent = sent_by(dialect)
        replies.data(COOKIE, 7, b"abc")
        assert sent.plain() == bytes.fromhex(layout) + b"abc"


def test_no_data_are_no_chunk_of_data() -> None:
    for dialect, magic in ((StructuredReplies, "668e33ef"), (ExtendedReplies, "6e8a278c")):
        replies, sent = sent_by(dialect)
        replies.data(COOKIE, 7, b"")
        assert sent.plain().startswith(bytes.fromhex(magic + "0001 0000"))


def test_the_last_of_several_chunks_is_marked() -> None:
    for dialect in (StructuredReplies, ExtendedReplies):
        replies, sent = sent_by(dialect)
        replies.chunks(COOKIE, 0, [Chunk(2, b"head"), Chunk(1, b"he", memoryview(b"ad"))])
        size = len(sent.plain()) // 2
        first, last = sent.plain()[:size], sent.plain()[size:]
        assert (first[4:8].hex(), last[4:8].hex()) == ("00000002", "00010001")
        assert (first[-4:], last[-4:]) == (b"head", b"head")


def test_an_error() -> None:
    replies, sent = sent_by(SimpleReplies)
    replies.error(COOKIE, 7, errno.EIO, "broken", done=3)
    assert sent.plain() == bytes.fromhex("67446698 00000005") + COOKIE
    replies, sent = sent_by(StructuredReplies)
    replies.error(COOKIE, 7, errno.EIO, "broken")
    head = bytes.fromhex("668e33ef 0001 8001") + COOKIE + bytes.fromhex("0000000c")
    assert sent.plain() == head + bytes.fromhex("00000005 0006") + b"broken"


def test_an_error_after_a_part_tells_where() -> None:
    for dialect in (StructuredReplies, ExtendedReplies):
        replies, sent = sent_by(dialect)
        replies.error(COOKIE, 7, errno.EIO, "broken", done=3)
        assert sent.plain()[6:8].hex() == "8002"
        assert sent.plain().endswith(b"broken" + (10).to_bytes(8, "big"))


@pytest.mark.parametrize("text", ["x" * 5000, "\u20ac" * 5000, "x\udcff" * 300, ""])
def test_the_text_of_an_error_is_short_and_utf_8(text: str) -> None:
    replies, sent = sent_by(StructuredReplies)
    replies.error(COOKIE, 0, errno.EIO, text)
    told = sent.plain()[26:]
    assert int.from_bytes(sent.plain()[24:26], "big") == len(told) <= 900
    assert text.encode(errors="backslashreplace").startswith(told)
    assert told.decode() or not text


def test_the_status_of_blocks() -> None:
    extents = [Extent(0, 512, 3), Extent(512, 4096, 0)]
    chunk = StructuredReplies(Channel(Recorder())).status(9, extents)
    assert chunk == (5, bytes.fromhex("00000009 00000200 00000003 00001000 00000000"), b"", 0)
    chunk = ExtendedReplies(Channel(Recorder())).status(9, extents)
    layout = "00000009 00000002 0000000000000200 0000000000000003 0000000000001000" + "00" * 8
    assert chunk == (6, bytes.fromhex(layout), b"", 0)


def test_a_status_that_needs_64_bits() -> None:
    extents = [Extent(0, 512, 1 << 32)]
    with pytest.raises(OSError, match="only fits extended headers") as caught:
        StructuredReplies(Channel(Recorder())).status(9, extents)
    assert caught.value.errno == errno.EOVERFLOW
    assert (1 << 32).to_bytes(8, "big") in ExtendedReplies(Channel(Recorder())).status(
        9, extents
    ).head
