"""Requests at the same time where that is worth it; what scripts gain is in `plugins`."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.plugin import Export
from nbdfork.protocol.adaptive import (
    FEW,
    MANY,
    AdaptiveTransmission,
    Balance,
    Usage,
)
from nbdfork.protocol.parallel import SharedChannel
from nbdfork.protocol.transmission import Session
from tests.support.harness import receive
from tests.support.requests import Counted, request

MS = 1_000_000
START = Usage(0, 0, 0)
WAITED = Usage(10 * MS, MS, 1)
COMPUTED = Usage(10 * MS, 9 * MS, 3)
LOST_ITS_PROCESSOR = Usage(10 * MS, MS, 0)


def judged(after: Usage, share: float) -> Balance:
    """Return what is thought of requests like this one, when the process uses so much."""
    balance = Balance()
    balance.count(START, after)
    balance.judge(10 * MS, int(share * 10 * MS))
    return balance


@pytest.mark.parametrize(
    ("after", "share", "together"),
    [
        (WAITED, 0.1, True),
        (WAITED, 1.0, False),  # for Python's lock
        (COMPUTED, 1.0, False),
        (COMPUTED, 0.1, False),  # one at a time, and not often
        (COMPUTED, 1.9, True),  # without Python's lock
        (LOST_ITS_PROCESSOR, 0.1, False),
    ],
)
def test_it_is_judged_by_what_requests_did(after: Usage, share: float, together: bool) -> None:
    assert judged(after, share).together is together


def test_at_first_they_are_carried_out_together() -> None:
    balance = Balance()
    for _ in range(FEW - 1):
        balance.count(START, COMPUTED)
        assert balance.together


@pytest.mark.parametrize(
    ("requests", "passed", "used", "together"),
    [
        (MANY, MS, 0, True),
        (MANY, MS, MS, False),
        (MANY - 1, MS, 0, False),  # too few, and too short
        (1, 200 * MS, MS, True),
        (1, 200 * MS, 150 * MS, False),
    ],
)
def test_one_after_another_they_are_watched(
    requests: int, passed: int, used: int, together: bool
) -> None:
    balance = judged(COMPUTED, 1.0)
    balance.count_alone(requests, passed, used)
    assert balance.together is together


def test_what_was_not_worth_it_is_tried_again_later() -> None:
    balance = judged(COMPUTED, 1.0)
    taken = []
    for _ in range(4):
        requests = 0
        while not balance.together:
            balance.count_alone(1, 3 * MS, 0)
            requests += 1
        taken.append(requests)
        balance.count(START, COMPUTED)
        balance.judge(10 * MS, 10 * MS)
    assert taken == [1, 2, 4, 8]


class Meeting(Export):
    """A read ends when as many have begun."""

    def __init__(self, readers: int) -> None:
        self.all_here = threading.Barrier(readers)

    def get_size(self) -> int:
        return 1 << 20

    def pread(self, count: int, offset: int) -> bytes:
        self.all_here.wait(30)
        return bytes(count)


class Memory(Export):
    def get_size(self) -> int:
        return 1 << 20

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(count)


@contextmanager
def served(disk: Export) -> Iterator[tuple[AdaptiveTransmission, socket.socket, Counted]]:
    ours, theirs = socket.socketpair()
    counted, session = Counted(), Session(Gate(disk, read_only=False))
    with ours, theirs:
        yield AdaptiveTransmission(SharedChannel(ours), session, counted, 16), theirs, counted


def test_reads_that_wait_do_not_wait_for_each_other() -> None:
    with served(Meeting(10)) as (serving, client, counted):
        client.sendall(request(0, 0, 512) * 10 + request(2))
        serving.serve()
        assert counted.total() == (10, 10 * 512, 0, 0)


def test_reads_that_do_not_wait_are_answered_in_batches() -> None:
    total = 4000
    with served(Memory()) as (serving, client, counted):
        server = threading.Thread(target=serving.serve)
        server.start()
        for _ in range(total // 100):
            client.sendall(request(0, 0, 16) * 100)
            assert len(receive(client, 100 * 32)) == 3200
        client.sendall(request(2))
        server.join(30)
        assert counted.total() == (total, total * 16, 0, 0)
        assert max(counted.batches)[0] > 1
        assert counted.busy_since == 0 or not serving._under_way
