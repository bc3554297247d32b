"""Requests that are made again when they have failed for a reason that may pass."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class TransientError(OSError):
    """A failure that may not occur again when the request is repeated."""


def attempt(request: Callable[[], T], pauses: Iterable[float], shown: str) -> T:
    """Return what *request* returns; if it raises `TransientError`, make it again after a pause.

    There is an attempt before each of *pauses*, which are in seconds, and a last one.  *shown* is
    who tries, for the log.  Raises whatever else the request raises, and what the last one does.
    """
    for pause in pauses:
        try:
            return request()
        except TransientError as error:
            log.info("%s: %s; trying again in %g s", shown, error.strerror, pause)
        time.sleep(pause)
    return request()
