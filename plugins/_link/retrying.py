"""Requests that are made again when they have failed for a reason that may pass."""

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class TransientError(OSError):
    """A failure that may not occur again when the request is repeated."""


def attempt(
    request: Callable[[], T],
    pauses: Iterable[float],
    shown: str,
    wait: Callable[[float], object] | None = None,
    limit: float = math.inf,
) -> T:
    """Return what *request* returns; if it raises `TransientError`, make it again after a pause.

    There is an attempt before each of *pauses*, which are in seconds, and a last one; but none that
    would begin more than *limit* seconds after the first.  *shown* is who tries, for the log.
    *wait* is called instead of `time.sleep`, and may raise if nobody waits for the result any more.
    Raises whatever else the request raises, and what the last one does.
    """
    deadline = time.monotonic() + limit if limit < math.inf else None
    for pause in pauses:
        try:
            return request()
        except TransientError as error:
            if deadline is not None and time.monotonic() + pause > deadline:
                raise
            log.info("%s: %s; trying again in %g s", shown, error.strerror, pause)
        (wait or time.sleep)(pause)
    return request()
