"""Signals that mean nothing are told of."""

import os
import signal

import pytest

from nbdfork.server import signals


def test_what_a_plugin_has_a_use_for_means_something() -> None:
    assert signal.SIGUSR2 in signals.meaningless()
    old = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        assert signal.SIGUSR2 not in signals.meaningless()
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert set(signals.STOP_SIGNALS).isdisjoint(signals.meaningless())


def test_the_others_are_told_of_and_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    found = signals.meaningless()
    signals.ignore_meaningless()
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert caplog.messages == ["the signal SIGUSR2 means nothing here, and is ignored"]
    finally:
        for signum in found:
            signal.signal(signum, signal.SIG_DFL)
