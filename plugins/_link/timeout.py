"""The time that a far end is given: the parameter timeout= of all plugins that wait for one."""

import re

SILENCE = 30.0
"""Seconds without a sign of life after which a far end is given up."""

_LONGEST = 2_000_000
"""Milliseconds are counted in 32 bits by some libraries."""


def seconds(text: str) -> float:
    """Parse a time in seconds, as in 30 or 0.5.  Raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,3})?", text, re.ASCII) or float(text) > _LONGEST:
        raise ValueError(f"expected seconds, as in 30 or 0.5, up to {_LONGEST}")
    return float(text)
