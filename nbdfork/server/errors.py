"""The error of the server wing."""


class StartupError(Exception):
    """The server cannot start; the message tells the user why."""
