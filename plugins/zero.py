"""The zero plugin: a disk of no bytes at all, to try clients on."""

from nbdfork.plugin import Needs, Plugin


class Zero(Plugin):
    """a disk of size zero"""

    def needs(self) -> Needs:
        return Needs()

    def get_size(self) -> int:
        return 0

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        raise AssertionError("the server lets no read past the end of a disk")
