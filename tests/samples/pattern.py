"""A read-only disk in which each aligned 8-byte word holds its own offset."""

from nbdfork.plugin import BlockSize, Parameter, Plugin, Support, parse


class Pattern(Plugin):
    """a disk whose words hold their own offsets"""

    size = Parameter(parse.size, required=True, magic=True, metavar="SIZE", help="size")
    minimum = Parameter(parse.size, default=1, metavar="SIZE", help="the minimum block size")
    maximum = Parameter(
        parse.size, default=BlockSize().maximum, metavar="SIZE", help="the maximum payload"
    )

    def get_size(self) -> int:
        return self.size

    def block_size(self) -> BlockSize:
        return BlockSize(self.minimum, 4096, self.maximum)

    def can_multi_conn(self) -> bool:
        return True

    def can_cache(self) -> Support:
        return Support.EMULATE

    def pread(self, count: int, offset: int) -> bytes:
        first = offset & ~7
        words = range(first, offset + count + 8, 8)
        return b"".join(w.to_bytes(8, "big") for w in words)[offset - first :][:count]
