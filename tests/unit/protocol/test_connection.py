"""A client from its first byte to its last: however its bytes come, it is told the same."""

import errno
import logging
import re
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbdfork.plugin import HOLE, ZERO, Extent, PartialError, Plugin
from nbdfork.protocol import wire
from nbdfork.protocol.handshake import Offer
from nbdfork.types import Buffer
from tests.support.conversation import (
    FIXED,
    chosen,
    converse,
    exports_of,
    option,
    queries,
)
from tests.support.requests import request
from tests.support.stream import Recorder

SIZE = 256 * 1024


class Disk(Plugin):
    """a disk that does everything, badly in places"""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray(SIZE)
        self.calls: list[str] = []
        self.wants = True

    def preconnect(self, read_only: bool) -> None:
        if not self.wants:
            raise OSError(errno.EPERM, "not this one")

    def get_size(self) -> int:
        return SIZE

    def pread(self, count: int, offset: int) -> bytes:
        if offset <= 8192 < offset + count:
            raise PartialError(errno.EIO, "a bad sector", 8192 - offset)
        return bytes(self.content[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.calls.append("flush")

    def trim(self, count: int, offset: int, flags: int) -> None:
        raise ZeroDivisionError("a bug")

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        for start in range(offset - offset % 65536, offset + count, 65536):
            is_zero = not any(self.content[start : start + 65536])
            yield Extent(start, 65536, HOLE | ZERO if is_zero else 0)

    def contexts(self) -> Iterable[str]:
        return ["x-test:age"]

    def context_extents(self, context: str, count: int, offset: int, flags: int) -> list[Extent]:
        return [Extent(0, 1000, 1), Extent(1000, SIZE, 2)]

    def close(self) -> None:
        self.calls.append("close")


# -- the same, however it comes ---------------------------------------------------------------

FREE_OPTIONS = st.builds(option, st.integers(0, 12), st.binary(max_size=30))
GOOD_OPTIONS = st.sampled_from(
    [
        option(wire.OPT_LIST),
        option(wire.OPT_INFO, chosen("", 0, 1, 2, 3)),
        option(wire.OPT_STRUCTURED_REPLY),
        option(wire.OPT_EXTENDED_HEADERS),
        option(wire.OPT_LIST_META_CONTEXT, queries("", "x-test:")),
        option(wire.OPT_SET_META_CONTEXT, queries("", "base:allocation", "x-test:age")),
        option(99, bytes(70_000)),
    ]
)
CHOICES = st.sampled_from([option(wire.OPT_GO, chosen()), option(wire.OPT_EXPORT_NAME)])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    command = draw(st.integers(0, 9))
    flags = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 8, 16, 32, 64]))
    length = draw(st.sampled_from([0, 1, 512, 4096, 70_000, 1 << 20]))
    offset = draw(st.sampled_from([0, 1, 8000, 65_536, SIZE - 512, SIZE]))
    if draw(st.booleans()):  # with extended headers
        payload = bytes([draw(st.integers(0, 255))]) * length
        return struct.pack(">IHH8sQQ", 0x21E41C71, flags, command, b"cookie..", offset, length) + (
            payload if command == 1 or flags & 32 else b""
        )
    payload = bytes([draw(st.integers(0, 255))]) * length
    header = struct.pack(">IHH8sQI", 0x25609513, flags, command, b"cookie..", offset, length)
    return header + (payload if command == 1 else b"")


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    options = draw(st.lists(GOOD_OPTIONS | FREE_OPTIONS, max_size=5))
    asked = draw(st.lists(requests(), max_size=6))
    return b"".join([FIXED, *options, draw(CHOICES), *asked, draw(st.binary(max_size=5))])


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    ends = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def outcome(pieces: Iterable[bytes]) -> tuple[bytes, bytes, list[str]]:
    disk = Disk()
    told = converse(pieces, exports_of(disk), Offer())
    told = re.sub(rb"reference [0-9a-f]{6}", b"reference", told)  # each bug has another
    return told, bytes(disk.content), disk.calls


WHOLE = b"".join(
    [
        FIXED,
        option(wire.OPT_STRUCTURED_REPLY),
        option(wire.OPT_SET_META_CONTEXT, queries("", "base:allocation")),
        option(wire.OPT_GO, chosen()),
        request(1, 4096, 600, b"w" * 600),
        request(0, 0, 70_000),
        request(7, 0, SIZE),
        request(2),
    ]
)


@settings(max_examples=100)
@given(conversations(), st.lists(st.integers(0, 3000), max_size=20))
@example(WHOLE, [])
def test_cuts_change_nothing(data: bytes, places: list[int]) -> None:
    assert outcome(cut(data, places)) == outcome([data])


@settings(max_examples=25)
@given(conversations().filter(lambda data: len(data) < 20_000))
@example(WHOLE)
def test_byte_by_byte_is_as_all_at_once(data: bytes) -> None:
    assert outcome(data[at : at + 1] for at in range(len(data))) == outcome([data])


@settings(max_examples=25)
@given(st.binary(max_size=300))
def test_nonsense_ends_in_a_closed_connection(data: bytes) -> None:
    stream = Recorder()
    disk = Disk()
    converse([FIXED, data], exports_of(disk), Offer(), stream=stream)
    assert stream.calls[-1] == "close"
    assert disk.calls.count("close") <= 1


def test_a_client_that_leaves_anywhere_leaves_nothing_open() -> None:
    for end in range(len(WHOLE)):
        stream, disk = Recorder(), Disk()
        converse([WHOLE[:end]], exports_of(disk), Offer(), stream=stream)
        assert stream.calls[-1] == "close"
        assert disk.calls.count("close") == (end >= len(FIXED) + 16 + 16 + 27)


@pytest.mark.parametrize("said", [b"", request(0, 0, 4)[:9]], ids=["at once", "amidst a request"])
def test_an_oldstyle_client_that_leaves_leaves_nothing_open(said: bytes) -> None:
    disk = Disk()
    converse([said], exports_of(disk))
    assert disk.calls.count("close") == 1


# -- the end ----------------------------------------------------------------------------------


class Ending(Recorder):
    """A stream that fails when all has been received, or when replies are sent after that."""

    def __init__(self, *pieces: bytes, fails: str) -> None:
        super().__init__(*pieces)
        self.fails = fails

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        if not self.pieces and self.fails == "receiving":
            raise ConnectionResetError(errno.ECONNRESET, "reset by the client")
        return super().recv_into(buffer, nbytes, flags)

    def sendmsg(self, buffers: Iterable[Buffer], /) -> int:
        if not self.pieces and self.fails == "sending":
            raise BrokenPipeError(errno.EPIPE, "nobody reads")
        return super().sendmsg(buffers)


CHOOSE = option(wire.OPT_GO, chosen())
LARGE_WRITE = request(1, 0, 1 << 20, bytes(1 << 20))

ENDS = {
    "a polite end": ([CHOOSE, request(0, 0, 4), request(2)], "", None),
    "no request under way": ([CHOOSE, request(0, 0, 4)], "", None),
    "a reset between requests": ([CHOOSE, request(0, 0, 4)], "receiving", None),
    "half an option": ([CHOOSE[:9]], "", None),
    "a reset in an option": ([CHOOSE[:9]], "receiving", None),
    "no option": ([bytes(16)], "", None),
    "half a header": ([CHOOSE, request(0, 0, 4)[:9]], "", "in the middle of a message"),
    "a reset in a header": ([CHOOSE, request(0, 0, 4)[:9]], "receiving", "reset by the client"),
    "no payload": ([CHOOSE, request(1, 0, 4)], "", "before the data"),
    "a reset before a payload": ([CHOOSE, request(1, 0, 4)], "receiving", "reset by the client"),
    "half a payload": ([CHOOSE, LARGE_WRITE[:5000]], "", "in the middle of"),
    "a reset in a payload": ([CHOOSE, LARGE_WRITE[:5000]], "receiving", "reset by the client"),
    "a reply not taken": ([CHOOSE, request(0, 0, 4)], "sending", "nobody reads"),
    "no magic": ([CHOOSE, bytes(28)], "", "the request magic is 0x00000000"),
}


@pytest.mark.parametrize("case", ENDS)
def test_an_end_in_the_middle_of_a_request_is_a_warning(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, fails, warning = ENDS[case]
    caplog.set_level(logging.INFO)
    converse([], exports_of(Disk()), Offer(), stream=Ending(FIXED, *said, fails=fails))
    found = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    if warning is None:
        assert found == []
    else:
        (line,) = found
        assert warning in line


def test_a_client_that_is_not_wanted_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    disk.wants = False
    with caplog.at_level(logging.INFO):
        assert converse([WHOLE], exports_of(disk), Offer()) == b""
    assert "not this one" in caplog.text
    assert disk.calls == []


def test_an_oldstyle_client_is_told_the_size() -> None:
    told = converse([request(0, 0, 4) + request(2)], exports_of(Disk()))
    assert told[:8] == b"NBDMAGIC"
    assert int.from_bytes(told[16:24], "big") == SIZE
    assert told[152:] == bytes.fromhex("67446698 00000000 0000000000000001") + bytes(4)


def test_the_export_that_was_chosen_is_told() -> None:
    names: list[str] = []
    converse([FIXED, option(wire.OPT_GO, chosen("any"))], exports_of(Disk()), Offer(), names.append)
    assert names == ["any"]


class Timed(Recorder):
    """A stream that notes its limits."""

    def settimeout(self, value: float | None, /) -> None:
        self.calls.append(f"limit {value}")


def test_the_limit_of_the_handshake_is_lifted_after_it() -> None:
    stream = Timed()
    said = [FIXED, option(wire.OPT_GO, chosen()), request(0, 0, 1)]
    converse(said, exports_of(Disk()), Offer(), stream=stream)
    limits = [call for call in stream.calls if call.startswith("limit") or call == "recv"]
    assert limits[0] == "limit 10.0"
    assert limits.index("limit None") > limits.index("recv")
    assert limits[limits.index("limit None") + 1] == "recv"
