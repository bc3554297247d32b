"""Memory for what is read, which is used again: to get it from the system takes longer than to read
into it.
"""

_MOST_SPARE = 64
"""So many buffers are kept."""


class SpareBuffers:
    """Buffers of the size that was asked for last; one thread at a time may use this."""

    def __init__(self) -> None:
        self._size = 0
        self._spare: list[memoryview] = []

    def take(self, size: int) -> memoryview:
        """Return memory of *size* bytes, with anything in it."""
        if size == self._size and self._spare:
            return self._spare.pop()
        return memoryview(bytearray(size))

    def give(self, buffer: memoryview) -> None:
        """Take back memory that nobody uses any more."""
        if len(buffer) != self._size:
            self._size = len(buffer)
            self._spare.clear()
        if len(self._spare) < _MOST_SPARE:
            self._spare.append(buffer)
