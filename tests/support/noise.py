"""Content that is recognised."""

import random


def noise(count: int, seed: int = 1) -> bytes:
    """Return *count* bytes that look like nothing else, the same ones each time."""
    return random.Random(seed).randbytes(count)


CONTENT = noise((3 << 20) + 512)
"""What is on the disk that other servers have."""
