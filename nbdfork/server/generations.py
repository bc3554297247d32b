"""All workers of a server: those of the program that runs, and those that earlier ones have left.

Only the current generation grows; from an earlier one, a worker goes with each client that leaves.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from nbdfork.server.generation import Generation
from nbdfork.server.handover import Handover, OldGeneration

Make: TypeAlias = Callable[[int, OldGeneration | None], Generation]
"""Makes a generation of that number, a new one or what is left of an old one."""


class Generations:
    """The generations; *before*: what an earlier program has handed over."""

    def __init__(self, make: Make, before: Handover | None) -> None:
        left = [] if before is None else before.generations
        self.old = [make(one.number, one) for one in left]
        self.current = make(1 if before is None else before.generation + 1, None)

    def __iter__(self) -> Iterator[Generation]:
        yield from self.old
        yield self.current

    @property
    def workers(self) -> list[int]:
        """The processes that have not been reaped yet."""
        return [pid for one in self for pid in one.workers]

    def clients(self) -> int:
        """Return how many clients are served."""
        return sum(one.clients() for one in self)

    def of(self, pid: int) -> Generation:
        """Return the generation of a worker; the current one if there is no such worker."""
        return next((one for one in self.old if pid in one.workers), self.current)

    def adjust(self) -> None:
        """Fork or retire workers, so that there are as many as there should be."""
        self.current.adjust(sum(len(one.workers) for one in self.old))

    def pause(self) -> float | None:
        """Return after how many seconds there is something to do even if nothing happens."""
        pauses = (one.pause() for one in self)
        return min((pause for pause in pauses if pause is not None), default=None)

    def watch_for_hangs(self) -> None:
        """See `Generation.watch_for_hangs`."""
        for one in self:
            one.watch_for_hangs()

    def reap(self, on_end: Callable[[Generation], None]) -> None:
        """Take note of workers that have ended; *on_end* is told of an old generation's end."""
        for one in self:
            one.reap()
        for one in [one for one in self.old if not one.workers]:
            self.old.remove(one)
            on_end(one)
            one.close()

    def let_old_go(self) -> None:
        """Let workers of earlier programs end as soon as they have no client."""
        for one in self.old:
            one.let_go()

    def old_waits(self) -> bool:
        """Return whether a worker of an earlier program waits for a client."""
        return any(one.spares() for one in self.old)

    def stop(self, generations: Iterable[Generation] | None = None) -> None:
        """Tell all workers, or those of some *generations*, to finish with their clients."""
        for one in self if generations is None else generations:
            one.stop()

    def kill(self, seconds: float) -> None:
        """Kill the workers that are left, and wait for them to be gone, up to *seconds*."""
        for one in self:
            one.kill(seconds)

    def close(self) -> None:
        """Give back the descriptors."""
        for one in self:
            one.close()

    def private(self) -> Iterator[int]:
        """Yield the descriptors of earlier generations, which are not for workers."""
        for one in self.old:
            yield from one.descriptors()

    def hand_over(self) -> list[OldGeneration]:
        """Return what another program needs to go on with them."""
        return [one.hand_over() for one in self]
