"""The gzip plugin: serve what is in a gzip file.

It is the gzip filter over the file.  The filter reads what it needs to know of the file when the
server starts.
"""

from nbdfork.filters.gzip import Gzip as Filter
from nbdfork.plugin import Parameter

from ._parts.unpacked import Unpacker, UnpackPlugin


class Gzip(UnpackPlugin):
    """serve what is in a gzip file"""

    index_size = Parameter(
        Filter.gzip_index_size.parse,
        default=Filter.gzip_index_size.default,
        metavar="SIZE",
        help=Filter.gzip_index_size.help,
    )
    salvage = Parameter(
        Filter.gzip_salvage.parse,
        default=Filter.gzip_salvage.default,
        metavar="true|false",
        help=Filter.gzip_salvage.help,
    )
    scratch = Parameter(
        Filter.gzip_scratch.parse,
        default=Filter.gzip_scratch.default,
        metavar="SIZE",
        help=Filter.gzip_scratch.help,
    )

    def make_filter(self) -> Unpacker:
        return Filter(
            "salvage",
            gzip_index_size=self.index_size,
            gzip_salvage=self.salvage,
            gzip_scratch=self.scratch,
        )
