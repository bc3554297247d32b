"""The client that each thread serves: told here by the protocol, asked for by plugins.

Everything about the connection stays with the protocol; what a plugin may want of it is the
function that a `Client` is made with.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nbdfork.plugin._serving import Client, Protection, serving, set_serving


@contextmanager
def calling() -> Iterator[None]:
    """The plugin is called for the client of this thread, and not to carry out a request of it."""
    served = serving()
    busy = served.busy if served is not None else lambda since: None
    busy(time.monotonic_ns())
    try:
        yield
    finally:
        busy(0)


__all__ = ["Client", "Protection", "calling", "serving", "set_serving"]
