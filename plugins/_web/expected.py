"""What the next reply should look like, to recognize a good one without parsing it.

A reply is recognized if its lines are those of an earlier reply that was checked, but for the
numbers of the part and for headers that say nothing about the content.  Whatever is different in
another way is to be parsed and checked.
"""

from typing import NamedTuple

_TELLING = frozenset(
    (b"content-range", b"content-encoding", b"transfer-encoding", b"etag", b"last-modified")
)
"""Headers that say what the content is."""


class ExpectedReply(NamedTuple):
    """The *lines* of a reply, of which the one *at* has numbers of a part between two texts.

    *names* are what lines begin with that may differ; those that may not have None.
    """

    lines: list[bytes]
    names: list[bytes | None]
    at: int
    before: bytes
    after: bytes

    @classmethod
    def from_headers(cls, headers: list[bytes], count: int, offset: int) -> "ExpectedReply | None":
        """Return what to expect after *headers*, or None if they are not simply a part's."""
        if headers.count(b"\r\n") != 1 or headers[-1] != b"\r\n":
            return None  # a redirect, or trailers
        names: list[bytes | None] = [None]
        at, before, after = 0, b"", b""
        for number, line in enumerate(headers[1:], 1):
            name, colon, _ = line.partition(b":")
            names.append(name + colon if name.lower() not in _TELLING and colon else None)
            if name.lower() == b"content-range":
                before, found, after = line.partition(b"%d-%d" % (offset, offset + count - 1))
                if not found or at:
                    return None
                at = number
        return cls(list(headers), names, at, before, after) if at else None

    def matches(self, headers: list[bytes], count: int, offset: int) -> bool:
        """Return whether *headers* are the same but for the part, which is this one."""
        if len(headers) != len(self.lines):
            return False
        part = b"%b%d-%d%b" % (self.before, offset, offset + count - 1, self.after)
        if headers[self.at] != part:
            return False
        for number, (line, known) in enumerate(zip(headers, self.lines, strict=True)):
            if line != known and number != self.at:
                name = self.names[number]
                if name is None or not line.startswith(name):
                    return False
        return True
