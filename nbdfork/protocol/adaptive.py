"""The request loop for disks of which nobody knows whether they wait: scripts, mostly.

Several requests at the same time are worth it where they wait: for a network, for another process.
Where they compute, Python carries out one at a time anyway, and the threads would only stand in
each other's way.  So it is found out, again and again, and the client that reads first of a disk
that waits loses nothing: it begins with threads.
"""

import resource
import threading
import time
from typing import NamedTuple

from nbdfork.protocol.meter import Meter
from nbdfork.protocol.parallel import ParallelTransmission, SharedChannel
from nbdfork.protocol.transmission import Payload, Session, Transmission

FEW = 8
"""From so many requests at the same time it is judged whether that was worth it."""

MANY = 64
"""From so many, one after another, it is judged whether they wait."""

MOST_REQUESTS = 4096
"""How many it may take to try again what was not worth it: twice as many each time."""

LONG_NANOSECONDS = 2_000_000
"""After so long it is judged as well, however few they are."""

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
"""How soon to try again whether several at once are worth it; twice as late each time they are not.
A library may compute without Python's lock, which is not seen from requests that come one by one.
"""

_SATURATED = 0.5
_MORE_THAN_ONE = 1.2
"""Shares of one processor: a process that uses so much does not wait, and one that uses so much has
threads that compute at the same time.
"""


class Usage(NamedTuple):
    """What a thread has used so far: nanoseconds of the clock and of a processor, and how often it
    went to sleep of its own accord.  One that only lost its processor to others did not.
    """

    clock: int
    processor: int
    sleeps: int

    @classmethod
    def of_this_thread(cls) -> "Usage":
        """Return that of the calling thread."""
        found = resource.getrusage(resource.RUSAGE_THREAD)
        return cls(
            time.monotonic_ns(), int((found.ru_utime + found.ru_stime) * 1e9), found.ru_nvcsw
        )

    def has_waited(self, before: "Usage") -> bool:
        """Return whether most of the time since *before* was spent waiting."""
        passed, used, sleeps = (now - then for now, then in zip(self, before, strict=True))
        return sleeps > 0 and used * 2 < passed


class Balance:
    """Whether requests are carried out together, judged by what they have cost."""

    def __init__(self) -> None:
        self.together = True
        self._retry = FIRST_RETRY_SECONDS
        self._least = 1  # requests, one after another, before it is tried again
        self._begin_window()

    def _begin_window(self) -> None:
        self._requests = 0
        self._waited = self._computed = 0  # nanoseconds of requests carried out together
        self._passed = self._used = 0  # of the clock and a processor, by those that were not
        self._began = time.monotonic_ns()
        self._process_began = time.process_time_ns()

    def count(self, before: Usage, after: Usage) -> None:
        """A request was carried out beside others."""
        passed = after.clock - before.clock
        if after.has_waited(before):
            self._waited += passed
        else:
            self._computed += passed
        self._requests += 1
        if self._requests >= FEW:
            passed = time.monotonic_ns() - self._began
            self.judge(passed, time.process_time_ns() - self._process_began)

    def judge(self, passed: int, used: int) -> None:
        """Decide after *passed* nanoseconds, in which the process used so many of a processor."""
        share = used / max(passed, 1)
        waits = self._waited > self._computed and share < _SATURATED
        self.together = waits or share > _MORE_THAN_ONE
        if self.together:
            self._retry, self._least = FIRST_RETRY_SECONDS, 1
        self._begin_window()

    def count_alone(self, requests: int, passed: int, used: int) -> None:
        """So many requests took so many nanoseconds one after another, and used a processor for so
        many of them.
        """
        self._requests += requests
        self._passed += passed
        self._used += used
        is_enough = self._requests >= MANY or self._passed >= LONG_NANOSECONDS
        if is_enough and self._requests >= self._least:
            if self._used * 2 < self._passed:
                self._least = min(2 * self._least, MOST_REQUESTS)
                self._try_together()
                return
            self._requests = self._passed = self._used = 0
        if requests > 1 and time.monotonic_ns() - self._began > self._retry * 1e9:
            self._retry = min(2 * self._retry, LONGEST_RETRY_SECONDS)
            self._try_together()

    def _try_together(self) -> None:
        self.together = True
        self._begin_window()


class AdaptiveTransmission(ParallelTransmission):
    """The transmission phase of a client whose requests are carried out one after another, in
    batches, or up to *threads* at once: whichever suits what they do.
    """

    _channel: SharedChannel

    def __init__(
        self, channel: SharedChannel, session: Session, meter: Meter, threads: int
    ) -> None:
        super().__init__(channel, session, meter, threads)
        self._balance = Balance()
        self._here = threading.local()
        self._alone = 0  # requests carried out by the thread that receives, and not counted yet
        self._since = self._used = 0  # when that began, by the clock and by the processor
        self._begin_batch = self._begin_if_alone

    # -- one after another --------------------------------------------------------------

    def _begin_if_alone(self, since: int) -> None:
        if not self._balance.together:
            self._begin_alone(since)

    def _begin_alone(self, since: int) -> None:
        self._channel.alone = threading.get_ident()
        self._since, self._used = since, time.thread_time_ns()
        self._meter.set_busy(since)

    def _answer(
        self,
        flags: int,
        command: int,
        cookie: bytes,
        offset: int,
        length: int,
        payload: Payload,
    ) -> None:
        if self._balance.together:
            super()._answer(flags, command, cookie, offset, length, payload)
            return
        if not self._alone and self._channel.alone != threading.get_ident():
            self._begin_alone(time.monotonic_ns())  # it was judged after the batch has begun
        self._alone += 1
        Transmission._answer(self, flags, command, cookie, offset, length, payload)
        if time.monotonic_ns() - self._since > LONG_NANOSECONDS:
            self._end_alone()

    def _count_batch(self, requests: int, began: int) -> None:
        if self._alone:
            self._end_alone()

    def _end_alone(self) -> None:
        """The thread that receives has carried out a batch, or a part of one, by itself."""
        self._channel.flush()
        count, self._alone = self._alone, 0
        Transmission._count_batch(self, count, self._since)
        now, used = time.monotonic_ns(), time.thread_time_ns()
        self._balance.count_alone(count, now - self._since, used - self._used)
        self._since, self._used = now, used
        if self._balance.together:
            self._channel.alone = None
        with self._counting:  # others may still be at work
            if self._under_way:
                self._meter.set_busy(self._under_way[0])

    # -- together -----------------------------------------------------------------------

    def _begin(self) -> int:
        self._here.before = Usage.of_this_thread()
        return super()._begin()

    def _finish(self, began: int) -> None:
        super()._finish(began)
        with self._counting:
            if self._balance.together:  # and not what began before it was judged
                self._balance.count(self._here.before, Usage.of_this_thread())
