"""The errors of the server wing."""


class StartupError(Exception):
    """The server cannot start; the message tells the user why."""


class CannotAccept(Exception):
    """A worker can accept no client, now or for good: another one has to take its place."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot accept clients: {error.strerror}")
