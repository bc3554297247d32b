"""Content that is recognised."""

import random


def noise(count: int, seed: int = 1) -> bytes:
    """Return *count* bytes that look like nothing else, the same ones each time."""
    return random.Random(seed).randbytes(count)
