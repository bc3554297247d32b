"""The scoreboard: slots are claimed, written by their owners, read by anybody, and freed."""

import os
from multiprocessing import get_context

import pytest

from nbdfork.server.scoreboard import LATENCY_BOUNDS, Counters, Scoreboard, State


def test_a_claimed_slot_is_not_given_to_another() -> None:
    board = Scoreboard(3)
    assert [board.claim(1), board.claim(1), board.claim(1)] == [range(1), range(1, 2), range(2, 3)]
    assert board.claim(1) is None
    board.free(range(1, 2))
    assert board.claim(2) == range(1, 2)
    assert board.entry(1).generation == 2


def test_a_worker_of_several_clients_has_slots_in_a_row() -> None:
    board = Scoreboard(6)
    assert board.claim(1) == range(1)
    assert board.claim(1, 3) == range(1, 4)
    assert board.claim(1, 3) is None
    assert board.states() == bytes(
        [State.STARTING, State.STARTING, State.RESERVED, State.RESERVED, State.FREE, State.FREE]
    )


def test_what_a_worker_writes_is_read_by_others() -> None:
    board = Scoreboard(2)
    board.claim(7)
    slot = board.slot(0)
    slot.begin("127.0.0.1:4711")
    slot.set_export("my disk")
    entry = board.entry(0)
    assert (entry.state, entry.pid, entry.generation) == (State.SERVING, os.getpid(), 7)
    assert entry.client == "127.0.0.1:4711 export 'my disk'"
    assert entry.counters == Counters(clients=1)
    slot.set(State.IDLE)
    assert board.entry(0).client == ""
    assert board.entry(0).counters.clients == 1
    assert board.states() == bytes([State.IDLE, State.FREE])


def test_a_forked_process_writes_into_the_same_memory() -> None:
    board = Scoreboard(2)
    board.claim(1)
    process = get_context("fork").Process(target=board.slot(0).begin, args=("a client",))
    process.start()
    process.join()
    assert board.entry(0).peer == "a client"
    assert board.entry(0).pid == process.pid


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\udcff/x", "\\udcff/x"), ("x" * 1000, "x" * 296), ("é" * 200, "é" * 148), ("", "")],
    ids=["not Unicode", "long", "cut within a character", "empty"],
)
def test_any_text_can_be_shown(text: str, shown: str) -> None:
    board = Scoreboard(1)
    board.slot(0).set(State.FAILED, reason=text)
    assert board.entry(0).reason == shown


def test_batches_are_added_up() -> None:
    board = Scoreboard(1)
    board.claim(1)
    count = board.slot(0).count
    count(3, 4096, 0, 1, 0)
    count(2, 0, 512, 0, LATENCY_BOUNDS[0] + 1)
    count(5, 1, 2, 0, 10**12)
    entry = board.entry(0)
    assert entry.counters == Counters(0, 10, 4097, 514, 1)
    assert entry.latency == (3, 2, *[0] * 9, 5)


@pytest.mark.parametrize("bucket", range(len(LATENCY_BOUNDS)))
def test_a_bucket_ends_at_its_bound(bucket: int) -> None:
    board = Scoreboard(1)
    count = board.slot(0).count
    count(1, 0, 0, 0, LATENCY_BOUNDS[bucket] - 1)
    count(1, 0, 0, 0, LATENCY_BOUNDS[bucket])
    latency = board.entry(0).latency
    assert (latency[bucket], latency[bucket + 1]) == (1, 1)


def test_nothing_that_was_counted_is_lost() -> None:
    board = Scoreboard(4)
    for index, slots in enumerate([board.claim(1), board.claim(1, 2)]):
        assert slots is not None
        for slot in slots:
            board.slot(slot).begin("x")
            board.slot(slot).count(10 + index, 1, 2, 3, 0)
    board.slot(2).merge_into(board.slot(1))
    assert board.entry(2).counters == Counters()
    expected = Counters(3, 32, 3, 6, 9)
    assert board.totals()[0] == expected
    board.free(range(1, 3))
    assert board.totals()[0] == expected
    board.claim(2)
    assert board.totals()[0] == expected
    assert board.totals()[1][0] == 32


def test_an_order_holds_until_the_slot_is_claimed_again() -> None:
    board = Scoreboard(1)
    board.claim(1)
    slot = board.slot(0)
    assert not slot.is_retired()
    board.retire(0)
    assert slot.is_retired()
    board.free(range(1))
    board.claim(1)
    assert not slot.is_retired()
