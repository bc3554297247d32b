"""The policy of the pool: how many workers are forked and retired, and when none is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.server.pool import LONGEST_PAUSE, PoolSize, Throttle

SIZES = st.builds(PoolSize, st.integers(1, 300), st.integers(1, 50), st.just(1))


@given(SIZES, st.integers(0, 400), st.integers(0, 400))
def test_forking_gives_the_spares_that_the_limit_allows(
    size: PoolSize, spare: int, busy: int
) -> None:
    forked = size.to_fork(spare, spare + busy)
    assert forked >= 0
    if forked:
        assert spare + forked <= size.spare_workers
        assert spare + busy + forked <= size.max_clients
        assert spare + forked == size.spare_workers or spare + busy + forked == size.max_clients


@given(SIZES, st.integers(0, 400), st.integers(0, 400), st.integers(1, 9))
def test_workers_that_were_killed_have_heirs_even_if_there_are_spares(
    size: PoolSize, spare: int, busy: int, killed: int
) -> None:
    forked = size.to_fork(spare, spare + busy, killed)
    assert forked == max(
        0, min(max(killed, size.spare_workers - spare), size.max_clients - spare - busy)
    )


@given(SIZES, st.integers(0, 400))
def test_retiring_never_leaves_too_few(size: PoolSize, spare: int) -> None:
    left = spare - size.to_retire(spare)
    assert left <= 2 * size.spare_workers
    assert left >= min(spare, size.spare_workers)
    assert size.to_fork(left, left) == 0 or left < size.spare_workers


def test_a_pool_of_one_has_one() -> None:
    one = PoolSize.one()
    assert (one.to_fork(0, 0), one.to_fork(1, 1), one.to_fork(0, 1)) == (1, 0, 0)
    assert one.to_retire(1) == 0


def test_the_pause_doubles_with_each_death_after_the_first() -> None:
    throttle = Throttle()
    pauses = [throttle.died_unused(100.0) for _ in range(10)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_PAUSE, LONGEST_PAUSE]
    assert throttle.remaining(100.0) == LONGEST_PAUSE
    assert throttle.remaining(107.5) == pytest.approx(2.5)
    assert throttle.remaining(200.0) == 0.0


def test_one_that_serves_ends_the_pause() -> None:
    throttle = Throttle()
    for _ in range(5):
        throttle.died_unused(0.0)
    throttle.served()
    assert throttle.remaining(0.0) == 0.0
    assert throttle.died_unused(0.0) == 0.0
