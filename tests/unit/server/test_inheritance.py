"""What a worker inherits, and how it reports back."""

import os
import threading
from contextlib import suppress

import pytest

from nbdfork.server import inheritance
from tests.support.harness import SECONDS
from tests.support.worker import Place


def test_what_has_changed_is_announced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []
    monkeypatch.setattr(inheritance, "show_in_ps", lambda *words: shown.append(words))
    place.inherited.slot(0).begin("somebody")
    place.inherited.announce()
    assert shown == [("worker serving somebody", "-worker")]
    assert os.read(place.changes, 100) == b"n"


def test_an_announcement_that_nobody_reads_is_no_matter(place: Place) -> None:
    while True:
        try:
            os.write(place.changes_end, bytes(65536))
        except BlockingIOError:
            break
    place.inherited.announce()
    os.close(place.changes)
    place.inherited.announce()


def test_a_worker_can_ask_for_the_end_of_all(place: Place) -> None:
    place.inherited.stop_server()
    assert os.read(place.changes, 100) == inheritance.STOP


def test_to_ask_for_the_end_it_waits_until_there_is_room(place: Place) -> None:
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(place.changes_end, bytes(4096))
    asking = threading.Thread(target=place.inherited.stop_server)
    asking.start()
    while filled:
        filled -= len(os.read(place.changes, filled))
    asking.join(SECONDS)
    assert os.read(place.changes, 100) == inheritance.STOP


def test_a_supervisor_that_has_ended_is_not_asked(place: Place) -> None:
    os.close(place.changes)
    place.inherited.stop_server()
