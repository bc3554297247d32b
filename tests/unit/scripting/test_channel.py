"""The connection to a helper: replies, errors, notices, and what is no helper protocol."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from nbdfork.scripting import CallbackFailed
from nbdfork.scripting.channel import HelperChannel, HelperGone
from nbdfork.scripting.frames import NOTICE, NOTICE_DEBUG, NOTICE_SHUTDOWN, REPLY, REQUEST


class Helper:
    """The helper's end, and what the script has asked the server for."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.shutdowns = 0
        self.channel = HelperChannel(ours, self._shut_down)
        ours.settimeout(15)
        self.socket.settimeout(15)

    def _shut_down(self) -> None:
        self.shutdowns += 1

    def reply(self, payload: bytes = b"", value: int = 0, error: int = 0) -> None:
        self.socket.sendall(REPLY.pack(len(payload), error, value) + payload)

    def request(self) -> tuple[tuple[int, ...], bytes]:
        data = self.socket.recv(REQUEST.size, socket.MSG_WAITALL)
        length, *numbers = REQUEST.unpack(data)
        payload = self.socket.recv(length, socket.MSG_WAITALL) if length else b""
        return tuple(numbers), payload


@pytest.fixture
def helper() -> Iterator[Helper]:
    made = Helper()
    yield made
    made.channel.close()
    made.socket.close()


def test_a_request_and_its_reply(helper: Helper) -> None:
    helper.reply(b"answer", value=-7)
    found = helper.channel.call("pwrite", memoryview(b"data"), handle=1, flags=2, offset=3)
    assert found == (-7, b"answer")
    assert helper.request() == ((31, 1, 2, 0, 3), b"data")


def test_an_error_is_that_of_the_callback(helper: Helper) -> None:
    helper.reply(b"no \xff room\n", error=28)
    with pytest.raises(CallbackFailed) as caught:
        helper.channel.call("pwrite")
    assert (caught.value.code, caught.value.text) == (28, "no \\xff room")
    helper.reply(value=4096)
    assert helper.channel.call("get_size") == (4096, b"")  # nothing is lost by it


@pytest.mark.parametrize("size", [1, 512, 100_000])
@pytest.mark.parametrize("step", [1 << 20, 7])
def test_a_read_in_any_pieces(size: int, step: int, helper: Helper) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    frames = REPLY.pack(size, 0, 0) + data[:size]

    def send() -> None:
        for start in range(0, len(frames), max(step, size // 50)):
            helper.socket.sendall(frames[start : start + max(step, size // 50)])

    sender = threading.Thread(target=send)
    sender.start()
    assert helper.channel.pread(1, size, 0) == data[:size]
    sender.join()


def test_notices_may_come_before_any_reply(
    helper: Helper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for read in (lambda: helper.channel.pread(1, 4, 0), lambda: helper.channel.call("flush")[1]):
        helper.reply(b"by the way\n", value=NOTICE_DEBUG, error=NOTICE)
        helper.reply(b"", value=NOTICE_SHUTDOWN, error=NOTICE)
        helper.reply(b"data")
        assert bytes(read()) == b"data"
    assert caplog.messages == ["by the way"] * 2
    assert helper.shutdowns == 2


Break = Callable[[Helper], object]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda helper: helper.reply(b"four"), "answered a read of 5 bytes with 4"),
        (lambda helper: helper.reply(b"sixsix"), "answered a read of 5 bytes with 6"),
        (lambda helper: helper.reply(b"", 77, NOTICE), "an unknown notice, 77"),
        (
            lambda helper: helper.socket.sendall(REPLY.pack(0x7FFFFFFF, 0, 0)),
            "a reply of 2147483647 bytes",
        ),
    ],
    ids=["short", "long", "notice", "huge"],
)
def test_what_is_no_helper_protocol_ends_it(wrong: Break, message: str, helper: Helper) -> None:
    wrong(helper)
    with pytest.raises(HelperGone, match=message):
        helper.channel.pread(1, 5, 0)
    helper.reply(b"fives")
    with pytest.raises(HelperGone, match="it closed the connection"):
        helper.channel.pread(1, 5, 0)  # where a reply begins is not known any more


def test_a_helper_that_ends_is_gone(helper: Helper) -> None:
    helper.socket.close()
    for _ in range(2):
        with pytest.raises(HelperGone):
            helper.channel.pread(1, 5, 0)
        with pytest.raises(HelperGone):
            helper.channel.call("pwrite", b"data")


def test_a_helper_that_hangs_is_given_up(helper: Helper) -> None:
    helper.channel.set_timeout(0.001)
    with pytest.raises(HelperGone, match="timed out"):
        helper.channel.call("flush")


def test_threads_have_their_requests_on_the_way_together(helper: Helper) -> None:
    """None waits for another's reply before it sends its own; each gets what it has asked for."""
    found: dict[int, bytes] = {}

    def read(offset: int) -> None:
        found[offset] = bytes(helper.channel.pread(1, 4, offset))

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    asked = [helper.request()[0][4] for _ in threads]  # all of them, before the first answer
    for offset in asked:
        helper.reply(b"%04d" % offset)
    for thread in threads:
        thread.join()
    assert found == {offset: b"%04d" % offset for offset in range(8)}
