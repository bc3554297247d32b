"""The xz plugin: serve what is in an xz file.

It is the xz filter over the file; the parameters have nbdkit's names.
"""

from nbdfork.filters import xz
from nbdfork.filters._blocks import MAX_INDEX, max_block, max_depth, max_index
from nbdfork.filters._unpack import UnpackFilter, UnpackPlugin
from nbdfork.plugin import Parameter


class Xz(UnpackPlugin):
    """serve what is in an xz file"""

    maxblock = Parameter(
        max_block, default=512 * 1024 * 1024, metavar="SIZE", help="the largest block to decode"
    )
    maxdepth = Parameter(
        max_depth, default=8, metavar="N", help="how many blocks each client keeps"
    )
    maxindex = Parameter(
        max_index, default=MAX_INDEX, metavar="N", help="how many blocks there may be"
    )

    def make_filter(self) -> UnpackFilter:
        return xz.Xz(
            xz.Keys("maxblock", "maxindex"),
            xz_max_block=self.maxblock,
            xz_max_depth=self.maxdepth,
            xz_max_index=self.maxindex,
        )
