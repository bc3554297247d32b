"""The channel: batches, pieces, and how it ends."""

import errno
import os
import random
import socket
import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from nbdfork.protocol.channel import (
    BUFFER_SIZE,
    DISCARD_SIZE,
    JOIN_SIZE,
    RESERVE_SIZE,
    SEND_SIZE,
    Channel,
)
from nbdfork.protocol.errors import Disconnected
from nbdfork.protocol.parallel import SharedChannel
from nbdfork.types import Buffer
from tests.support.stream import Recorder


def test_one_receive_serves_many_takes() -> None:
    stream = Recorder(b"abcdef")
    channel = Channel(stream)
    assert channel.receive(2)
    assert [bytes(channel.take(2)) for _ in range(3)] == [b"ab", b"cd", b"ef"]
    assert stream.calls == ["recv"]
    assert not channel.receive(1)


def test_nothing_unsent_is_held_while_it_waits() -> None:
    stream = Recorder(b"x")
    channel = Channel(stream)
    channel.put(b"one")
    channel.put(b"two")
    assert stream.calls == []
    channel.receive(1)
    assert stream.calls == ["send", "recv"]
    assert stream.sent == b"onetwo"


def test_large_payloads_wait_with_nothing_unsent_too() -> None:
    size = BUFFER_SIZE + 10
    stream = Recorder(b"ab", bytes(size - 2))
    channel = Channel(stream)
    assert channel.receive(2)
    channel.put(b"reply")
    assert bytes(channel.take_large(size, lambda count: None)) == b"ab" + bytes(size - 2)
    assert stream.calls == ["recv", "send", "recv"]


def test_replies_leave_when_enough_have_gathered() -> None:
    stream = Recorder()
    channel = Channel(stream)
    while not stream.calls:
        channel.put(bytes(4096))
    assert len(stream.sent) == SEND_SIZE


def test_many_small_replies_fit_into_one_call() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    reader = threading.Thread(target=lambda: received.append(everything(theirs)))
    received: list[bytes] = []
    reader.start()
    for number in range(5000):
        channel.put(number.to_bytes(2, "big"))
    channel.flush()
    ours.shutdown(socket.SHUT_WR)
    reader.join()
    assert received == [b"".join(n.to_bytes(2, "big") for n in range(5000))]
    theirs.close()
    ours.close()


def test_memory_that_may_change_is_not_kept() -> None:
    stream = Recorder()
    channel = Channel(stream)
    small, large = bytearray(b"abc"), bytearray(DISCARD_SIZE)
    channel.put_with_data(b"1", small)
    small[:] = b"xyz"
    channel.put_with_data(b"2", memoryview(large))
    large[:] = b"x" * DISCARD_SIZE
    channel.flush()
    assert stream.sent == b"1abc2" + bytes(DISCARD_SIZE)


def test_large_data_are_sent_where_they_lie() -> None:
    stream = Recorder()
    channel = Channel(stream)
    channel.put(b"1")
    channel.put_with_data(b"2", bytes(JOIN_SIZE + 1))
    assert stream.calls == []
    channel.put_with_data(b"3", bytes(SEND_SIZE))
    assert stream.calls == ["send"]
    assert stream.sent == b"12" + bytes(JOIN_SIZE + 1) + b"3" + bytes(SEND_SIZE)


@pytest.mark.parametrize("takes", [1, 3, 7])
def test_partial_sends_are_continued(takes: int) -> None:
    stream = Recorder(takes=takes)
    channel = Channel(stream)
    for part in (b"abc", b"", b"defgh", b"i"):
        channel.put(part)
    channel.flush()
    assert stream.sent == b"abcdefghi"


def test_end_at_a_boundary_and_within_a_message() -> None:
    channel = Channel(Recorder())
    assert not channel.receive(4)
    channel = Channel(Recorder(b"abc"))
    with pytest.raises(Disconnected):
        channel.receive(4)
    channel = Channel(Recorder(b"abc"))
    with pytest.raises(Disconnected):
        channel.take_large(BUFFER_SIZE + 1, lambda count: None)


def test_any_cut_gives_the_same_bytes() -> None:
    generator = random.Random(0)
    data = generator.randbytes(1 << 20)
    for _ in range(5):
        channel = Channel(Recorder(*cut(data, generator)))
        taken = b""
        while len(taken) < len(data):
            count = min(generator.choice([1, 28, 4096, 300_000]), len(data) - len(taken))
            taken += bytes(channel.take(count))
        assert taken == data


def cut(data: bytes, generator: random.Random) -> Iterator[bytes]:
    while data:
        size = generator.choice([1, 100, 5000])
        yield data[:size]
        data = data[size:]


def test_discard() -> None:
    channel = Channel(Recorder(bytes(1000), b"rest"))
    channel.discard(1000)
    assert bytes(channel.take(4)) == b"rest"


def test_stop_gives_what_had_arrived_and_then_the_end() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    theirs.sendall(b"abcd")
    channel.stop()
    assert bytes(channel.take(4)) == b"abcd"
    assert not channel.receive(1)
    theirs.close()
    ours.close()


def test_deadline() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.set_deadline(0.01)
    with pytest.raises(Disconnected, match="timed out"):
        channel.receive(1)
    channel.set_deadline(None)
    theirs.sendall(b"x")
    assert channel.receive(1)
    theirs.close()
    ours.close()


def test_the_last_reply_survives_a_close_with_unread_bytes() -> None:
    """Over TCP, closing with bytes unread resets the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.sendall(os.urandom(100_000))
    channel = Channel(ours)
    channel.put(b"bye")
    closing = threading.Thread(target=channel.close)
    closing.start()
    assert everything(theirs) == b"bye"
    theirs.close()
    closing.join()


def everything(client: socket.socket) -> bytes:
    data = b""
    while more := client.recv(65536):
        data += more
    return data


class Hole(Recorder):
    """A stream that takes *before* bytes, and then none of a bytearray, as if it were the memory of
    a file that was cut off.
    """

    def __init__(self, before: int) -> None:
        super().__init__()
        self.before = before

    def sendmsg(self, buffers: Iterable[Buffer], /) -> int:
        whole = b"".join(bytes(part) for part in buffers)
        if any(type(memoryview(part).obj) is bytearray for part in buffers):
            whole = whole[: self.before]
            self.before -= len(whole)
            if not whole:
                raise OSError(errno.EFAULT, "gone")
        return super().sendmsg([whole])


DATA = os.urandom(JOIN_SIZE + 1)
VIEW = memoryview(bytearray(DATA))


@pytest.mark.parametrize("before", [0, 5, 6, 9, 10, 11, 10 + len(DATA) - 1])
@pytest.mark.parametrize("kind", [Channel, SharedChannel])
def test_a_view_that_is_gone_is_read_again(kind: type[Channel], before: int) -> None:
    def read_again(count: int, offset: int) -> bytes:
        assert offset + count == 1000 + len(DATA)
        return DATA[offset - 1000 :]

    stream = Hole(before)
    channel = kind(stream)
    channel.read_again = read_again
    for header in (b"header", b"second"):
        channel.put(b"late")
        channel.put_with_data(header, VIEW, 1000)
    channel.put(b"last")
    channel.flush()
    assert stream.sent == b"lateheader" + DATA + b"latesecond" + DATA + b"last"


def test_nothing_follows_a_reply_that_was_sent_in_part() -> None:
    def read_again(count: int, offset: int) -> bytes:
        raise Disconnected("the disk failed")

    stream = Hole(5)
    channel = SharedChannel(stream)
    channel.read_again = read_again
    with pytest.raises(Disconnected, match="the disk failed"):
        channel.put_with_data(b"first reply", VIEW, 0)
    with pytest.raises(Disconnected, match="an earlier reply"):
        channel.put(b"second reply")
    assert stream.sent == b"first"


def test_what_is_gone_again_ends_the_connection() -> None:
    channel = Channel(Hole(0))
    channel.read_again = lambda count, offset: VIEW
    with pytest.raises(Disconnected):
        channel.put_with_data(b"", VIEW, 0)


def test_stopping_a_channel_that_is_closed_already() -> None:
    one, other = socket.socketpair()
    channel = Channel(one)
    one.close()
    channel.stop()
    assert channel.stopped
    other.close()


def test_a_client_that_trickles_does_not_outlive_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0

    class Trickle(Recorder):
        def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
            nonlocal now
            now += 0.01
            buffer[:1] = b"x"
            return 1

    monkeypatch.setattr(time, "monotonic", lambda: now)
    channel = Channel(Trickle())
    channel.set_deadline(0.05)
    with pytest.raises(Disconnected, match="timed out"):
        channel.discard(1000)


def test_a_large_payload_is_reserved_as_it_comes_and_dropped_where_it_may_not() -> None:
    size = 4 * RESERVE_SIZE
    reserved: list[int] = []
    pieces = [bytes(RESERVE_SIZE // 2)] * 8
    channel = Channel(Recorder(*pieces, b"rest"))
    assert len(channel.take_large(size, reserved.append)) == size
    assert len(reserved) > 2
    assert sum(reserved) == size

    def refuse(count: int) -> None:
        reserved.append(count)
        if len(reserved) > 1:
            raise OSError(errno.ENOMEM, "no more")

    reserved.clear()
    channel = Channel(Recorder(*pieces, b"rest"))
    with pytest.raises(OSError, match="no more"):
        channel.take_large(size, refuse)
    assert sum(reserved) < size
    assert bytes(channel.take(4)) == b"rest"
