"""The time that a far end is given: the parameter timeout= of all plugins that wait for one."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

SILENCE = 30.0
"""Seconds without a sign of life after which a far end is given up."""

_LONGEST = 2_000_000
"""Milliseconds are counted in 32 bits by some libraries."""


def seconds(text: str) -> float:
    """Parse a time in seconds, as in 30 or 0.5.  Raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,3})?", text, re.ASCII) or float(text) > _LONGEST:
        raise ValueError(f"expected seconds, as in 30 or 0.5, up to {_LONGEST}")
    return float(text)


def some_seconds(text: str) -> float:
    """Parse a time in seconds that is not 0.  Raises ValueError."""
    if not (parsed := seconds(text)):
        raise ValueError("expected more than 0 seconds")
    return parsed


class Patience(NamedTuple):
    """How a far end is waited for."""

    wait: Callable[[float, Mapping[int, int]], Mapping[int, int]]
    """Waits for some seconds for events, as `Server.wait` does, and raises as that does."""
    timeout: float
    """How long it may take to connect and shake hands, and be silent afterwards, in seconds."""

    def pause(self, seconds: float) -> None:
        """Wait for *seconds*.  Raises OSError if nobody waits for the result any more."""
        self.wait(seconds, {})
