"""The memory that the data of one client's large requests take."""

import errno
import threading

import pytest

from nbdfork.backend.errors import Refused
from nbdfork.protocol.meter import Holdings
from tests.support.requests import Counted


def test_each_thread_gives_back_what_it_took_itself() -> None:
    meter = Counted()
    holdings = Holdings(meter)
    holdings.add(5)
    other = threading.Thread(target=holdings.add, args=(8,))
    other.start()
    other.join()
    assert meter.held == 13
    holdings.release()
    assert meter.held == 8
    holdings.release()  # there is nothing left to give back
    assert meter.held == 8


def test_what_is_too_much_is_refused_and_not_counted() -> None:
    meter = Counted()
    meter.most_held = 10
    holdings = Holdings(meter)
    holdings.add(10)
    with pytest.raises(Refused) as refused:
        holdings.add(1)
    assert refused.value.errno == errno.ENOMEM
    holdings.release()
    assert meter.held == 0
