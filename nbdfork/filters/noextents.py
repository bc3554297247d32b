"""The noextents filter: do not tell clients where the disk has holes."""

from nbdfork.plugin import Export, Filter, FilterExport, Needs


class NoExtents(Filter):
    """do not tell clients of holes"""

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return NoExtentsExport(next)


class NoExtentsExport(FilterExport):
    """*next*, all of it data."""

    def can_extents(self) -> bool:
        return False

    def can_resize(self) -> bool:
        return self.next.can_resize()
