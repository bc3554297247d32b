"""The rotational filter: tell clients that seeking is slow, or that it is not."""

from nbdfork.plugin import Export, Filter, FilterExport, Needs, Parameter, parse


class Rotational(Filter):
    """say whether the disk is one that spins"""

    is_slow = Parameter(
        parse.boolean,
        default=True,
        key="rotational",
        metavar="BOOL",
        help="what clients are told",
    )

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return RotationalExport(next, self.is_slow)


class RotationalExport(FilterExport):
    """*next*, which seeks slowly if it *is_slow*."""

    def __init__(self, next: Export, is_slow: bool) -> None:
        super().__init__(next)
        self._is_slow = is_slow

    def is_rotational(self) -> bool:
        return self._is_slow

    def can_resize(self) -> bool:
        return self.next.can_resize()
