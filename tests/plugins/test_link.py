"""What plugins share that go over a network: links made again when lost, and turns at receiving."""

import errno
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from nbdfork.plugins._link.buffers import SpareBuffers
from nbdfork.plugins._link.reconnecting import KnownLosses, Link, LinkLost, ReconnectingLink
from nbdfork.plugins._link.retrying import TransientError, attempt
from nbdfork.plugins._link.turns import PendingReply, Turns
from nbdfork.plugins._link.within import Unanswered, within

UNFLUSHED = "far: the connection was lost after writes that had not been flushed"


class Flimsy(Link):  # type: ignore[misc]  # plugins are not checked with their types here
    """A link that is lost when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self.is_closed = False

    def is_lost(self) -> bool:
        return self.lost

    def close(self) -> None:
        self.is_closed = True

    def lose(self) -> None:
        """Lose the link in the middle of a request."""
        self.lost = True
        raise LinkLost("gone")


def reconnecting(make: Callable[[], Flimsy] = Flimsy, pauses: Sequence[float] = (0.0,)) -> Any:
    return ReconnectingLink(make, pauses, "far", time.sleep, math.inf)


def nothing(link: Flimsy) -> None:
    """Make a request that succeeds."""


# -- attempts ---------------------------------------------------------------------------------


def failing(outcomes: Iterator[Exception | str]) -> str:
    outcome = next(outcomes)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.mark.parametrize(
    ("outcomes", "paused", "result"),
    [
        (["done"], [], "done"),
        ([TransientError(errno.EIO, "busy"), "done"], [0.5], "done"),
        ([TransientError(errno.EIO, "busy")] * 3 + ["never"], [0.5, 2.0], "busy"),
        ([TransientError(errno.EIO, "busy"), OSError(errno.EPERM, "no"), "never"], [0.5], "no"),
        ([ValueError("no number"), "never"], [], "no number"),
    ],
)
def test_a_request_is_made_again_while_that_may_help(
    outcomes: list[Exception | str],
    paused: list[float],
    result: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    left = iter(outcomes)
    try:
        said = attempt(lambda: failing(left), (0.5, 2.0), "far")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", str(error))
    assert (said, pauses) == (result, paused)
    lines = [f"far: busy; trying again in {pause:g} s" for pause in paused]
    assert [record.message for record in caplog.records] == lines


# -- links ------------------------------------------------------------------------------------


def test_a_request_is_made_again_on_a_new_link() -> None:
    link = reconnecting()
    first = link.current
    used: list[Flimsy] = []

    def request(current: Flimsy) -> str:
        used.append(current)
        if current is first:
            current.lose()
        return "done"

    assert link.attempt(request) == "done"
    assert used == [first, link.current]
    assert first.is_closed
    assert not link.current.is_closed


def test_attempts_have_an_end_and_the_error_names_the_far_end() -> None:
    link = reconnecting(Flimsy, (0.0, 0.0))
    used: list[Flimsy] = []

    def request(current: Flimsy) -> None:
        used.append(current)
        current.lose()

    with pytest.raises(OSError, match="far: gone"):
        link.attempt(request)
    assert len(set(map(id, used))) == len(used) == 3


def test_what_the_far_end_refuses_is_not_tried_again() -> None:
    link = reconnecting()
    used: list[Flimsy] = []

    def request(current: Flimsy) -> None:
        used.append(current)
        raise OSError(errno.EROFS, "read-only")

    with pytest.raises(OSError, match="far: read-only") as caught:
        link.attempt(request)
    assert caught.value.errno == errno.EROFS
    assert len(used) == 1


def test_a_link_that_cannot_be_made_is_an_error_at_once() -> None:
    def refuse() -> Flimsy:
        raise OSError(errno.ECONNREFUSED, "refused")

    with pytest.raises(OSError, match="far: refused"):
        reconnecting(refuse)


def test_threads_that_wait_for_a_new_link_fail_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them tries; the others need not try the same again, one after the other."""
    made = 0
    asked = threading.Semaphore(0)
    monotonic = time.monotonic

    def noted() -> float:
        asked.release()  # a thread asks for a new link, and notes when
        return monotonic()

    def make() -> Flimsy:
        nonlocal made
        made += 1
        if made == 1:
            return Flimsy()
        for _ in range(4):
            asked.acquire()
        raise OSError(errno.EIO, "no such host")

    link = reconnecting(make, ())
    link.current.lost = True
    monkeypatch.setattr(time, "monotonic", noted)

    def request() -> None:
        with pytest.raises(OSError, match="far: no such host"):
            link.attempt(nothing)

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(request) for _ in range(4)]:
            one.result()
    assert made == 2


# -- losses -----------------------------------------------------------------------------------


def test_the_next_flush_of_each_client_tells_of_writes_that_may_be_lost() -> None:
    link = reconnecting()
    clients = [KnownLosses(link) for _ in range(2)]
    link.write(nothing)
    link.current.lost = True
    link.attempt(nothing)
    for known in clients:
        with pytest.raises(OSError, match=UNFLUSHED):
            link.flush(nothing, known)
        link.flush(nothing, known)
    link.flush(nothing, KnownLosses(link))  # who comes later has lost nothing


def test_who_comes_before_anybody_was_told_of_a_loss_is_told() -> None:
    link = reconnecting()
    link.write(nothing)  # by a client that leaves
    link.current.lost = True
    link.attempt(nothing)
    for _ in range(2):
        late = KnownLosses(link)
        if not link.told:
            with pytest.raises(OSError, match=UNFLUSHED):
                link.flush(nothing, late)
        link.flush(nothing, late)


def test_what_has_been_flushed_is_not_lost() -> None:
    link = reconnecting()
    known = KnownLosses(link)
    link.write(nothing)
    link.flush(nothing, known)
    link.current.lost = True
    link.flush(nothing, known)
    assert not link.losses


def test_a_flush_does_not_cover_writes_that_are_acknowledged_during_it() -> None:
    link = reconnecting()
    known = KnownLosses(link)
    link.flush(lambda current: link.write(nothing), known)
    link.current.lost = True
    with pytest.raises(OSError, match=UNFLUSHED):
        link.flush(nothing, known)


def test_a_write_that_is_acknowledged_while_its_link_is_replaced_may_be_lost() -> None:
    link = reconnecting()
    known = KnownLosses(link)

    def acknowledge(first: Flimsy) -> None:
        first.lost = True
        link.attempt(nothing)
        assert link.current is not first

    link.write(acknowledge)
    with pytest.raises(OSError, match=UNFLUSHED):
        link.flush(nothing, known)


# -- turns ------------------------------------------------------------------------------------


class Wire:
    """A connection on which replies come in the order in which a test puts them."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.replies: queue.Queue[PendingReply] = queue.Queue()
        self.receiving: set[int] = set()
        self.most_at_once = 0

    def receive(self) -> None:
        me = threading.get_ident()
        self.receiving.add(me)
        self.most_at_once = max(self.most_at_once, len(self.receiving))
        reply = self.replies.get()
        self.receiving.discard(me)
        self.turns.finish(reply)

    def wait(self, reply: PendingReply) -> bool:
        self.turns.wait(reply, self.receive)
        return bool(reply.done)


def test_a_thread_alone_receives_its_own_reply() -> None:
    wire, reply = Wire(), PendingReply()
    wire.replies.put(reply)
    assert wire.wait(reply)
    assert wire.wait(reply)  # it is done: there is nothing to receive


@pytest.mark.parametrize("backwards", [False, True])
def test_each_thread_returns_with_its_reply_and_one_receives_at_a_time(backwards: bool) -> None:
    wire = Wire()
    replies = [PendingReply() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wire.wait, reply) for reply in replies]
        for reply in reversed(replies) if backwards else replies:
            wire.replies.put(reply)
        assert all(one.result() for one in waiting)
    assert wire.most_at_once == 1
    assert wire.replies.empty()


# -- calls that are given up ------------------------------------------------------------------


def test_a_call_within_its_time() -> None:
    assert within(30, lambda: 5) == 5
    assert within(30, lambda: None) is None
    with pytest.raises(KeyError):
        within(30, lambda: {"known": 1}["unknown"])
    with pytest.raises(SystemExit):
        within(30, lambda: sys.exit(3))


def test_a_call_that_takes_longer_is_left_to_itself() -> None:
    may_end, has_ended = threading.Event(), threading.Event()

    def call() -> None:
        assert may_end.wait(30)
        has_ended.set()

    with pytest.raises(Unanswered, match=r"no answer for 0\.01 s") as caught:
        within(0.01, call)
    assert caught.value.errno == errno.ETIMEDOUT
    assert not has_ended.is_set()
    may_end.set()
    assert has_ended.wait(30)


# -- memory that is used again ----------------------------------------------------------------


def test_buffers_of_one_size_are_used_again() -> None:
    spare = SpareBuffers()
    first = spare.take(4096)
    other = spare.take(4096)
    assert other.obj is not first.obj
    spare.give(first)
    assert spare.take(4096).obj is first.obj
    spare.give(other)
    assert len(spare.take(512)) == 512
    spare.give(spare.take(512))
    assert spare.take(4096).obj is not other.obj
