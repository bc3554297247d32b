"""The errors that end a client's connection; what fails only a request is an OSError."""


class Disconnected(Exception):
    """The client went away."""


class CutShort(Disconnected):
    """It went away in the middle of a message, or while replies were being sent."""


class TlsFailed(Disconnected):
    """The client and the server could not agree on TLS."""


class ProtocolError(Exception):
    """The client broke the protocol so that there is no choice but to disconnect it."""


class Rejected(Exception):
    """The client cannot have what it wants, and it speaks in a way that has no word for that."""
