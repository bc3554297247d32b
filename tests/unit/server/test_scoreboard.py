"""The scoreboard: slots are claimed, written by their owners, read by anybody, and freed."""

import faulthandler
import mmap
import os
import time
from multiprocessing import get_context

import pytest

from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import LATENCY_BOUNDS, Counters, Slot, State


def owned(board: Scoreboard, index: int) -> Slot:
    """Return a slot as its owner has it."""
    return Slot(board.share(range(index, index + 1)), 0)


def claimed(slots: int = 1) -> tuple[Scoreboard, Slot]:
    board = Scoreboard(slots)
    board.claim(1)
    return board, owned(board, 0)


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
    assert [board.state(index) for index in range(3)] == [
        State.STARTING,
        State.STARTING,
        State.FREE,
    ]
    assert board.used == 4


def test_what_a_worker_writes_is_read_by_others() -> None:
    board = Scoreboard(2)
    board.claim(7)
    slot = owned(board, 0)
    slot.begin("127.0.0.1:4711")
    slot.set_export("my disk")
    slot.set_busy(4711)
    entry = board.entry(0)
    assert (entry.state, entry.pid, entry.generation) == (State.SERVING, os.getpid(), 7)
    assert entry.client == "127.0.0.1:4711 export 'my disk'"
    assert entry.counters == Counters(clients=1)
    assert entry.busy_since == 4711
    assert board.clients(range(2)) == entry.client
    slot.set(State.IDLE)
    assert board.entry(0).client == board.clients(range(2)) == ""
    assert board.entry(0).counters.clients == 1


def test_a_forked_process_writes_into_the_same_memory() -> None:
    board, slot = claimed(2)
    process = get_context("fork").Process(target=slot.begin, args=("a client",))
    process.start()
    process.join()
    assert board.entry(0).peer == "a client"
    assert board.entry(0).pid == process.pid


def _spoil(board: Scoreboard, way: str) -> None:
    """In a worker: try to write to the slots of others."""
    faulthandler.disable()  # the crash is what is wanted
    if way == "reading side":
        board.bytes[mmap.PAGESIZE] = 1
    elif way == "address":
        (board._memory.bytes)[mmap.PAGESIZE] = 1
    else:
        board.retire(0)


@pytest.mark.parametrize("way", ["reading side", "address", "order"])
def test_the_slots_of_others_cannot_be_written(way: str) -> None:
    board, slot = claimed()
    slot.begin("a client")
    before = bytes(board.bytes)
    process = get_context("fork").Process(target=_spoil, args=(board, way))
    process.start()
    process.join()
    assert process.exitcode != 0
    assert bytes(board.bytes) == before


def test_nonsense_is_read_without_harm() -> None:
    board, _ = claimed()
    board.share(range(1)).bytes[:] = b"\xff" * mmap.PAGESIZE
    assert board.state(0) is State.SERVING
    assert board.entry(0).counters.errors == (1 << 64) - 1
    assert board.clients(range(1)) == ""
    board.free(range(1))
    assert board.claim(1) == range(1)
    assert board.totals()[0].errors == (1 << 64) - 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\udcff/x", "\\udcff/x"), ("x" * 5000, "x" * 1024), ("é" * 900, "é" * 512), ("", "")],
    ids=["not Unicode", "long", "cut within a character", "empty"],
)
def test_any_text_can_be_shown(text: str, shown: str) -> None:
    board, slot = claimed()
    slot.set(State.FAILED, reason=text)
    assert board.entry(0).reason == shown


def test_batches_are_added_up() -> None:
    board, slot = claimed()
    slot.set_busy(1)
    slot.count(3, 4096, 0, 1, 0)
    slot.count(2, 0, 512, 0, LATENCY_BOUNDS[0] + 1)
    slot.count(5, 1, 2, 0, 10**12)
    entry = board.entry(0)
    assert entry.counters == Counters(0, 10, 4097, 514, 1)
    assert entry.latency == (3, 2, *[0] * 9, 5)
    assert entry.busy_since == 0


@pytest.mark.parametrize("bucket", range(len(LATENCY_BOUNDS)))
def test_a_bucket_ends_at_its_bound(bucket: int) -> None:
    board, slot = claimed()
    slot.count(1, 0, 0, 0, LATENCY_BOUNDS[bucket] - 1)
    slot.count(1, 0, 0, 0, LATENCY_BOUNDS[bucket])
    latency = board.entry(0).latency
    assert (latency[bucket], latency[bucket + 1]) == (1, 1)


def test_nothing_that_was_counted_is_lost() -> None:
    board = Scoreboard(4)
    for index, slots in enumerate([board.claim(1), board.claim(1, 2)]):
        assert slots is not None
        for one in slots:
            slot = owned(board, one)
            slot.begin("x")
            slot.count(10 + index, 1, 2, 3, 0)
    owned(board, 2).merge_into(owned(board, 1))
    assert board.entry(2).counters == Counters()
    expected = Counters(3, 32, 3, 6, 9)
    assert board.totals()[0] == expected
    board.free(range(1, 3))
    assert board.totals()[0] == expected
    board.claim(2)
    assert board.totals()[0] == expected
    assert board.totals()[1][0] == 32


def test_an_order_holds_until_the_slot_is_claimed_again() -> None:
    board, slot = claimed()
    assert not slot.is_retired()
    board.retire(0)
    assert slot.is_retired()
    board.free(range(1))
    board.claim(1)
    assert not slot.is_retired()


def test_a_plugin_is_busy_for_its_client_until_the_connection_is_over() -> None:
    board, slot = claimed()
    slot.begin("a client")
    assert not board.entry(0).has_been_busy(0)
    slot.set_busy(time.monotonic_ns() - 2 * 10**9)
    assert board.entry(0).has_been_busy(2)
    assert not board.entry(0).has_been_busy(60)
    slot.set_closing()
    assert not board.entry(0).has_been_busy(0)
    slot.begin("another")
    assert board.entry(0).has_been_busy(2)


def test_whoever_closes_a_connection_can_be_told() -> None:
    _, slot = claimed()
    told: list[str] = []
    slot.on_closing = lambda: told.append("closing")
    slot.set_closing()
    assert told == ["closing"]


def test_a_slot_that_is_detached_is_left_to_another() -> None:
    board, slot = claimed()
    slot.begin("one")
    slot.detach()
    slot.count(1, 1, 1, 0, 0)
    slot.set(State.FREE)
    assert slot.is_detached
    assert board.entry(0).client == "one"
    assert board.entry(0).counters.requests == 0
