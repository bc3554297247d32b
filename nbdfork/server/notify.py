"""What a service manager is told of the server: sd_notify(3).

It says by NOTIFY_SOCKET where it listens, and by WATCHDOG_USEC how often it wants to hear from us.
If it does not, nothing here does anything.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

log = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
"""The status is not told more often than that."""

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells the service manager that the *environment* names."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Take the variables out of *environment*: they are not for our children."""
        given = {} if environment is None else environment
        self.variables = {name: given.pop(name) for name in VARIABLES if name in given}
        self._address = self.variables.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._interval = self._watchdog_seconds() / 2
        self._next_sign = time.monotonic()
        self._status = self._told_status = ""
        self._next_status = 0.0
        self._is_ready = False

    def _watchdog_seconds(self) -> float:
        """Return how often it wants a sign of life from this very process; 0 is never."""
        text = self.variables.get("WATCHDOG_USEC", "")
        owner = self.variables.get("WATCHDOG_PID", str(os.getpid()))
        return int(text) / 1e6 if text.isdecimal() and owner == str(os.getpid()) else 0.0

    def tell_ready(self) -> None:
        """Clients are served, by this process from now on."""
        self._is_ready = True
        self._tell("READY=1", f"MAINPID={os.getpid()}")

    def tell_reloading(self) -> None:
        """Another program is about to take over; it will tell that it is ready."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def tell_stopping(self) -> None:
        """The server is about to end."""
        self._is_ready = False
        self._tell("STOPPING=1", "STATUS=Finishing with clients")

    def set_status(self, text: str) -> None:
        """Have *text* told, as the line that says what the server is doing, when it is time."""
        self._status = text

    def pause(self) -> float | None:
        """Return in how many seconds `tick` is to be called; None if there is nothing to tell."""
        if not self._address:
            return None
        moments = [self._next_sign] if self._interval else []
        if self._is_ready and self._status != self._told_status:
            moments.append(self._next_status)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def tick(self) -> None:
        """Tell what it is time for."""
        now = time.monotonic()
        if not self._address:
            return
        if self._interval and now >= self._next_sign:
            self._next_sign = now + self._interval
            self._tell("WATCHDOG=1")
        if self._is_ready and self._status != self._told_status and now >= self._next_status:
            self._next_status = now + STATUS_SECONDS
            self._told_status = self._status
            self._tell(f"STATUS={self._status}")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError):  # it does not listen, or its queue is full: it is its loss
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.connect(self._address)
                sender.send("\n".join(lines).encode())
