"""The types that all parts of nbdfork speak in."""

from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes.  Memoryviews are one-dimensional, of format "B"."""


class Needs(NamedTuple):
    """What a process needs to serve a disk; what it does not need is taken away from it.

    *read* and *write* are paths of files, or of directories with all that is below them; what can
    be written can be read.  *network*: it makes sockets of the Internet, and Unix ones.
    *programs*: it starts other programs, which may use any file.  *stop*: it may stop the server.
    *anything*: it may need all of that, and nothing more is known.  *signals*: it sends them to
    processes that it has not started.

    "|" adds up what two need.
    """

    read: frozenset[str] = frozenset()
    write: frozenset[str] = frozenset()
    network: bool = False
    programs: bool = False
    stop: bool = False
    anything: bool = False
    signals: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.read | other.read,
            self.write | other.write,
            self.network or other.network,
            self.programs or other.programs,
            self.stop or other.stop,
            self.anything or other.anything,
            self.signals or other.signals,
        )
