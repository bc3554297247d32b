"""The third example: a RAM disk that can be written.

It is written to be read after example2.  New is state that all clients share.  Each of them is
served by a process of its own, and an ordinary bytearray would be copied into each when it is
forked: what one client writes, another would never see.  So the disk is a `SharedBuffer`, made
in `get_ready`, before there is any worker.
"""

from collections.abc import Mapping

from nbdfork.plugin import ConfigError, Needs, Parameter, Plugin, SharedBuffer, Support, parse

DEFAULT_SIZE = 100 * 1024 * 1024


class Example3(Plugin):
    """an example: a RAM disk that all clients share"""

    size = Parameter(parse.size, default=DEFAULT_SIZE, metavar="SIZE", help="the size of the disk")

    def dump_plugin(self) -> Mapping[str, str]:
        return {"example3_extra": "hello"}

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        try:
            self.disk = SharedBuffer(self.size, name="disk")
        except (OSError, OverflowError) as error:
            raise ConfigError(f"example3: size={self.size}: choose less: {error}") from error

    # No client needs anything of its own, so there is no `open`: the plugin is the export.

    def get_size(self) -> int:
        return len(self.disk)

    def pread(self, count: int, offset: int) -> bytes:
        return self.disk[offset : offset + count]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.disk[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing to do: memory is as stable as this disk will ever be."""

    def can_fua(self) -> Support:
        return Support.NATIVE  # for the same reason every write is as good as flushed

    def can_multi_conn(self) -> bool:
        return True  # what one has written, all can read
