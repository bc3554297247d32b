"""The nocache filter: hide the disk's own way of caching what clients ask to be cached."""

from nbdfork.plugin import (
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    Support,
    parse,
)

_MODES = parse.choice("none", "emulate", "nop")
_METAVAR = "none|emulate|nop"


_SUPPORT = {"none": Support.NONE, "emulate": Support.EMULATE, "nop": Support.NATIVE}


class NoCache(Filter):
    """hide or change the requests to cache"""

    cache_mode = Parameter(
        _MODES, metavar=_METAVAR, help="what becomes of requests to cache; none if not given"
    )
    cachemode = Parameter(_MODES, metavar=_METAVAR, help="the same")

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        if self.cache_mode is not None and self.cachemode is not None:
            raise ConfigError("nocache: cache-mode= and cachemode= are the same: give one of them")
        self._mode = self.cache_mode or self.cachemode or "none"

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return NoCacheExport(next, self._mode)


class NoCacheExport(FilterExport):
    """*next* without its `cache`."""

    def __init__(self, next: Export, mode: str) -> None:
        super().__init__(next)
        self._support = _SUPPORT[mode]

    def can_cache(self) -> Support:
        return self._support

    def cache(self, count: int, offset: int) -> None:
        """Do nothing, which is what a hint allows."""

    def can_resize(self) -> bool:
        return self.next.can_resize()
