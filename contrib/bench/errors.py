"""What can go wrong in a measurement."""


class BenchError(Exception):
    """A server, a client or the machine did not do what was needed; the message says what."""


class QueueFull(BenchError):
    """Too many clients came at once for the server's listen queue: EAGAIN of connect(2)."""
