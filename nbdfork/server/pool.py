"""The policy of the pool: how many workers there should be.  The mechanism is `supervisor`."""

from typing import NamedTuple

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0


class PoolSize(NamedTuple):
    """The size of the pool.

    *max_clients*: the most clients at once, and so the most workers.  *spare_workers*: how many
    wait for clients ahead of need.  *clients_per_worker*: how many a worker serves, one after
    another, before it is replaced; 0 is no limit.
    """

    max_clients: int
    spare_workers: int
    clients_per_worker: int

    @classmethod
    def one(cls) -> "PoolSize":
        """Return the size of a pool of one worker that stays."""
        return cls(max_clients=1, spare_workers=1, clients_per_worker=0)

    def to_fork(self, spare: int, total: int, heirs: int = 0) -> int:
        """Return how many workers to fork, *spare* of the *total* having no client.

        *heirs* of them, if there is room, take the place of workers that were killed: so a plugin
        learns, in `after_fork`, that its state may have been left as it should not be.
        """
        return max(0, min(max(self.spare_workers - spare, heirs), self.max_clients - total))

    def to_retire(self, spare: int) -> int:
        """Return how many workers without a client are too many.

        There may be twice the spares, so that a client that comes and goes costs no fork.
        """
        return max(0, spare - 2 * self.spare_workers)


class Throttle:
    """Hold back forking while workers die before they have served anyone.

    The first such death may be an accident and costs nothing; after each further one in a row
    the pause doubles.
    """

    def __init__(self) -> None:
        self._deaths = 0
        self._until = 0.0

    def died_unused(self, now: float) -> float:
        """A worker died before its first client; return the pause that follows, in seconds."""
        self._deaths += 1
        pause = 0.0
        if self._deaths > 1:
            pause = min(FIRST_PAUSE * 2.0 ** (self._deaths - 2), LONGEST_PAUSE)
        self._until = max(self._until, now + pause)
        return pause

    def served(self) -> None:
        """A worker has served a client: whatever was wrong is over."""
        self._deaths = 0
        self._until = 0.0

    def remaining(self, now: float) -> float:
        """Return for how many seconds no worker may be forked."""
        return max(0.0, self._until - now)
