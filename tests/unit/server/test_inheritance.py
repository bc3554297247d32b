"""What a worker inherits, and how it reports back."""

import os
import signal

import pytest

from nbdfork.server import inheritance
from tests.support.worker import Place


def test_what_has_changed_is_announced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []
    monkeypatch.setattr(inheritance, "show_in_ps", lambda *words: shown.append(words))
    place.inherited.slot(0).begin("somebody")
    place.inherited.announce()
    assert shown == [("nbdfork-worker", "worker serving somebody")]
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


def test_a_worker_can_ask_for_the_end_of_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    place.inherited.stop_server()
    assert sent == [(os.getpid(), signal.SIGTERM)]
