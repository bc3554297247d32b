"""Who is sent away when all clients are taken and others wait: those who only take the place.

They have come and said nothing, or they have ended and do not close the connection.
"""

from nbdfork.server.slots import Entry

SILENCE_SECONDS = 1.0
"""How long a client that has sent no request is safe when all are taken and others wait."""


class Room:
    """What is known of workers whose clients are to make room, by their pids."""

    def __init__(self) -> None:
        self._lingering: set[int] = set()  # when they were last looked at
        self._sent_away: set[int] = set()

    def reason(self, pid: int, entry: Entry, now: float) -> str:
        """Return why the client of a worker is to be sent away, or "" if it is not, or was already.

        *now* is in seconds since 1970.
        """
        reason = ""
        if entry.is_closing and pid in self._lingering:
            reason = "it has ended, and does not close"
        elif entry.is_closing:
            self._lingering.add(pid)
        elif entry.is_silent and entry.since < now - SILENCE_SECONDS:
            reason = "it is silent"
        if not reason or pid in self._sent_away:
            return ""
        self._sent_away.add(pid)
        return reason

    def forget(self, pid: int) -> None:
        """The worker has ended."""
        self._lingering.discard(pid)
        self._sent_away.discard(pid)
