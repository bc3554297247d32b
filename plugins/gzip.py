"""The gzip plugin: serve what is in a gzip file.

It is the gzip filter over the file.  The filter reads what it needs to know of the file when the
server starts.
"""

from nbdfork.filters import gzip
from nbdfork.filters._unpack import UnpackFilter, UnpackPlugin
from nbdfork.plugin import Parameter


class Gzip(UnpackPlugin):
    """serve what is in a gzip file"""

    index_size = Parameter(
        gzip.index_size,
        default=64 * 1024 * 1024,
        metavar="SIZE",
        help="the most that the index may take",
    )

    def make_filter(self) -> UnpackFilter:
        return gzip.Gzip("index-size", gzip_index_size=self.index_size)
