"""Calls that are given up when they take too long: some libraries wait as long as they like.

Nothing ends such a call; whoever gives it up leaves it to its thread, and must not use again what
it uses.
"""

import errno
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Unanswered(TimeoutError):
    """A call has been given up, and may still go on."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what *call* returns, in a thread of its own.

    Raises whatever that raises, and `Unanswered` if it has not returned after so many *seconds*.
    """
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:  # it is raised in the thread that waits
            ended.put((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        result, error = ended.get(timeout=seconds)
    except queue.Empty:
        raise Unanswered(errno.ETIMEDOUT, f"no answer for {seconds:g} s") from None
    thread.join()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None is what the call returned
