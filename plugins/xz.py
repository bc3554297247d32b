"""The xz plugin: serve what is in an xz file.

It is the xz filter over the file; the parameters have nbdkit's names.
"""

from nbdfork.filters.xz import Keys
from nbdfork.filters.xz import Xz as Filter
from nbdfork.plugin import Parameter

from ._parts.unpacked import Unpacker, UnpackPlugin


class Xz(UnpackPlugin):
    """serve what is in an xz file"""

    maxblock = Parameter(
        Filter.xz_max_block.parse,
        default=Filter.xz_max_block.default,
        metavar="SIZE",
        help=Filter.xz_max_block.help,
    )
    maxdepth = Parameter(
        Filter.xz_max_depth.parse,
        default=Filter.xz_max_depth.default,
        metavar="N",
        help=Filter.xz_max_depth.help,
    )
    maxindex = Parameter(
        Filter.xz_max_index.parse,
        default=Filter.xz_max_index.default,
        metavar="N",
        help=Filter.xz_max_index.help,
    )
    scratch = Parameter(
        Filter.xz_scratch.parse,
        default=Filter.xz_scratch.default,
        metavar="SIZE",
        help=Filter.xz_scratch.help,
    )

    def make_filter(self) -> Unpacker:
        return Filter(
            Keys("maxblock", "maxindex"),
            xz_max_block=self.maxblock,
            xz_max_depth=self.maxdepth,
            xz_max_index=self.maxindex,
            xz_scratch=self.scratch,
        )
