"""A RAM disk on nbdfork's own contract: what the scripts for nbdkit's API are compared with.

Run it as `nbdfork contrib/bench/ramdisk.py 64M`.
"""

from nbdfork.plugin import Parameter, Plugin, SharedBuffer, parse


class RamDisk(Plugin):
    """a RAM disk in memory that the workers share, read without a copy"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )

    def get_ready(self) -> None:
        """Make the memory before the workers are forked, so that all see the same."""
        self._memory = SharedBuffer(self.size).view()

    def get_size(self) -> int:
        return self.size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> memoryview:
        return self._memory[offset : offset + count]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._memory[offset : offset + len(data)] = data

    def flush(self) -> None:
        """There is no medium."""
