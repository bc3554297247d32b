"""The ones plugin: a disk of one bits, or of any other byte, that forgets what is written."""

import re

from nbdfork.plugin import Needs, Parameter, Plugin, Support, parse


def _byte(text: str) -> int:
    # 010 means 8 to nbdkit and 10 to others, so it is refused.
    if not re.fullmatch(r"0|[1-9][0-9]{0,2}|0[xX][0-9a-fA-F]{1,2}", text) or int(text, 0) > 0xFF:
        raise ValueError("expected a byte, as in 0x55 or 85")
    return int(text, 0)


class Ones(Plugin):
    """a disk of one bits, or of another byte, that forgets what is written"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )
    byte = Parameter(_byte, default=0xFF, metavar="BYTE", help="what it is full of")

    def needs(self) -> Needs:
        return Needs()

    def get_size(self) -> int:
        return self.size

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        return bytes([self.byte]) * count

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Do nothing: nothing is kept."""

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Do nothing: it takes no space."""

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: the content is computed."""
