"""The stop signal: clients that are served, that come later, and other signals."""

import os
import signal
from collections.abc import Iterator

import pytest

from nbdfork.server.stopper import Stopper
from tests.support.harness import is_readable

STOP, OTHER = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture
def stopper() -> Iterator[Stopper]:
    made = Stopper()
    handlers = {signum: signal.getsignal(signum) for signum in (STOP, OTHER)}
    made.install([STOP])
    yield made
    signal.set_wakeup_fd(-1)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    os.close(made.ending)


class Client:
    """A client that does *during* while it is served."""

    def __init__(self, during: object = None) -> None:
        self.during = during
        self.stops = 0
        self.stopped_first = False

    def serve(self) -> None:
        self.stopped_first = self.stops > 0
        if callable(self.during):
            self.during()

    def stop(self) -> None:
        self.stops += 1


def send(signum: signal.Signals) -> None:
    os.kill(os.getpid(), signum)


def test_a_client_that_is_served_is_stopped(stopper: Stopper) -> None:
    client = Client(lambda: send(STOP))
    stopper.serve(client)
    assert stopper.stopped
    assert client.stops == 1
    assert is_readable(stopper.ending)


def test_one_that_comes_after_the_signal_is_stopped_at_once(stopper: Stopper) -> None:
    send(STOP)
    client = Client()
    stopper.serve(client)
    assert client.stopped_first


def test_one_that_has_gone_hears_nothing(stopper: Stopper) -> None:
    gone = Client()
    stopper.serve(gone)
    send(STOP)
    assert gone.stops == 0


def test_a_client_that_fails_is_forgotten(stopper: Stopper) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    client = Client(fail)
    with pytest.raises(ZeroDivisionError):
        stopper.serve(client)
    send(STOP)
    assert client.stops == 0


def test_a_signal_of_a_plugin_does_not_look_like_the_end(stopper: Stopper) -> None:
    signal.signal(OTHER, lambda *_: None)
    send(OTHER)
    assert is_readable(stopper.ending)  # Python's handlers write all of them to the pipe
    stopper.forget_other_signals()
    assert not is_readable(stopper.ending)
    stopper.forget_other_signals()
    send(STOP)
    stopper.forget_other_signals()
    assert is_readable(stopper.ending)


def test_an_end_without_a_signal_is_told(stopper: Stopper) -> None:
    stopper.announce_end()
    assert is_readable(stopper.ending)
    assert not stopper.stopped
