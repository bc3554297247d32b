"""The offset filter: serve a part of the disk, as a disk that begins at 0."""

from nbdfork.filters._part import PartExport
from nbdfork.plugin import Export, Filter, Needs, Parameter, parse


class Offset(Filter):
    """serve a part of the disk"""

    offset = Parameter(parse.size, default=0, metavar="OFFSET", help="where the part begins")
    range = Parameter(parse.size, metavar="LENGTH", help="how long it is; to the end if not given")

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        wanted = f"offset={self.offset}" + ("" if self.range is None else f" range={self.range}")
        length = next.get_size() - self.offset if self.range is None else self.range
        return PartExport(next, self.offset, length, wanted)
