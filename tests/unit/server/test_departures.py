"""Who has left, on Unix domain sockets, over TCP and on pipes."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from nbdfork.server import departures as module
from nbdfork.server.departures import Departures, Line, Sign, on_departure
from tests.support.harness import SECONDS, eventually

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def tcp() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours, theirs:
            yield ours, theirs


@pytest.fixture
def line() -> Iterator[Line]:
    with closing(Line()) as made:
        yield made


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.02)


def test_data_are_no_sign(line: Line, pair: Pair) -> None:
    ours, theirs = pair
    assert line.look() is Sign.HERE  # nobody is watched
    line.watch(ours)
    theirs.sendall(b"data")
    assert line.look() is Sign.HERE


def test_on_a_unix_domain_socket_half_a_close_is_no_sign(line: Line, pair: Pair) -> None:
    ours, theirs = pair
    line.watch(ours)
    theirs.shutdown(socket.SHUT_WR)
    assert line.look() is Sign.HERE
    theirs.close()
    assert line.look() is Sign.GONE
    line.unwatch(ours)
    assert line.look() is Sign.HERE
    line.unwatch(ours)  # again: nothing happens


def test_over_tcp_the_end_of_the_stream_is_a_weak_sign(line: Line, tcp: Pair) -> None:
    ours, theirs = tcp
    line.watch(ours)
    theirs.close()
    eventually(lambda: line.look() is Sign.SENDS_NO_MORE)
    ours.sendall(b"an answer")
    eventually(lambda: line.look() is Sign.GONE)  # it was refused


def test_a_client_on_pipes_is_gone_when_it_reads_no_more(line: Line) -> None:
    reader, writer = os.pipe()

    class Pipes:
        sink = writer

        def fileno(self) -> int:
            return reader

    line.watch(Pipes())
    assert line.look() is Sign.HERE
    os.close(reader)
    assert line.look() is Sign.GONE
    os.close(writer)


def test_a_file_cannot_leave(line: Line) -> None:
    with open(os.devnull) as file:
        line.watch(file)
    assert line.look() is Sign.HERE


@pytest.fixture
def departures() -> Iterator[Departures[str]]:
    with closing(Departures[str]()) as made:
        yield made


def looked(departures: Departures[str]) -> list[tuple[str, Sign]]:
    """Return what is seen when it is time to look."""
    assert departures.pause() is not None
    found: list[tuple[str, Sign]] = eventually(
        lambda: [(key, sign) for key, _, sign in departures.look()]
    )
    return found


def test_who_has_left_is_seen_after_the_grace(departures: Departures[str], pair: Pair) -> None:
    ours, theirs = pair
    line = departures.add("a worker")
    assert line is not None
    departures.add("another")
    line.watch(ours)
    departures.hear()
    assert departures.pause() is None
    theirs.close()
    departures.hear()
    assert list(departures.look()) == []
    departures.rename("a worker", "its pid")
    assert departures.pause() is not None
    departures.remove("nobody")


def test_who_has_left_is_seen_until_it_is_not_served(
    departures: Departures[str], pair: Pair
) -> None:
    ours, theirs = pair
    line = departures.add("a worker")
    assert line is not None
    line.watch(ours)
    theirs.close()
    departures.hear()
    assert looked(departures) == [("a worker", Sign.GONE)]
    assert looked(departures) == [("a worker", Sign.GONE)]
    line.unwatch(ours)
    assert looked(departures) == [("a worker", Sign.HERE)]
    assert departures.pause() is None
    new, leaving = socket.socketpair()
    with new:
        line.watch(new)
        leaving.close()
        departures.hear()
        assert looked(departures) == [("a worker", Sign.GONE)]
    departures.remove("a worker")
    assert departures.pause() is None


def test_without_descriptors_there_is_no_line(
    departures: Departures[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(fd: int) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "Line", fail)
    assert departures.add("a worker") is None
    assert departures.add("another") is None
    departures.rename("a worker", "its pid")
    departures.remove("its pid")
    (record,) = caplog.records
    assert "are not noticed: [Errno 24]" in record.message


def test_a_thread_acts(pair: Pair) -> None:
    ours, theirs = pair
    acted = threading.Event()
    on_departure(ours, acted.set)
    assert not acted.wait(0.05)
    theirs.close()
    assert acted.wait(SECONDS)
