"""The noparallel filter: have requests carried out one after another, or clients served so."""

from nbdfork.plugin import (
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    ThreadModel,
    parse,
)

_MODELS = {
    "requests": ThreadModel.SERIALIZE_REQUESTS,
    "all-requests": ThreadModel.SERIALIZE_ALL_REQUESTS,
    "connections": ThreadModel.SERIALIZE_CONNECTIONS,
}


class NoParallel(Filter):
    """carry out requests one after another"""

    serialize = Parameter(
        parse.choice(*_MODELS),
        default="requests",
        metavar="requests|all-requests|connections",
        help="what must not happen at the same time",
    )

    def needs(self) -> Needs:
        return Needs()

    def thread_model(self) -> ThreadModel:
        return _MODELS[self.serialize]

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return AloneExport(next) if self.serialize == "connections" else next


class AloneExport(FilterExport):
    """*next* for the one client that there is: it need not try a second connection."""

    def can_multi_conn(self) -> bool:
        return False

    def can_resize(self) -> bool:
        return self.next.can_resize()
