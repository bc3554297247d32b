"""Filters: plugins with a `next`.

A filter stands between the clients and a plugin, or another filter, and changes what passes.
On the command line, `--filter=NAME` puts one in front of the plugin; the first is nearest to
the client.

    class ReadOnly(Filter):
        "let nobody write"

        def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
            return ReadOnlyExport(next)

    class ReadOnlyExport(FilterExport):
        def can_write(self) -> bool:
            return False
"""

from collections.abc import Iterable

from nbdfork.plugin.export import Export, ExportInfo
from nbdfork.plugin.plugin import Plugin

_METHODS = tuple(
    name
    for name, value in vars(Export).items()
    if callable(value) and not name.startswith("_") and name != "pread_into"
)

_MADE_OF = {
    "pread": ("pread_into",),
    "view": ("pread", "pread_into"),
    "pipeline": ("pread", "pread_into", "pwrite"),
    "file_range": ("pread", "pread_into", "pwrite"),
    "write_zeroes": ("pwrite",),
}
"""Methods that do by others what `next` does not do in the same way if one of these is overridden:
they stay those of `Export`."""


class FilterExport(Export):
    """One client's view of a disk through a filter; `next` is what is below.

    A method that is not overridden is that of `next`, bound when the client connects: it costs
    nothing.  That goes for the facts as well: what the disk can do, the filter can, so a filter
    that overrides `pwrite` over a disk that cannot write has to override `can_write`, too.
    """

    def __init__(self, next: Export) -> None:
        self.next = next
        for name in _METHODS:
            if not any(map(self._overrides, (name, *_MADE_OF.get(name, ())))):
                setattr(self, name, getattr(next, name))

    def can_resize(self) -> bool:
        """Whether clients may change the size: not, unless a filter says so.

        One to which all sizes of `next` are the same may return what that does.
        """
        return False


class Filter(Plugin):
    """One configured filter; `next` is the plugin or filter below."""

    next: Plugin

    opens_read_only: bool = False
    """Whether what is below is opened read-only, also for clients that may write."""

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        """Return the view of *next* for a new client; by default *next* itself."""
        return next

    def check_access(self, read_only: bool) -> None:
        self.next.check_access(read_only or self.opens_read_only)

    def preconnect(self, read_only: bool) -> None:
        self.next.preconnect(read_only)

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        return self.next.list_exports(read_only)

    def default_export(self, read_only: bool) -> str:
        return self.next.default_export(read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        below = self.next.open(export_name, read_only or self.opens_read_only)
        try:
            return self.wrap(below, export_name, read_only)
        except BaseException:
            below.close()
            raise


__all__ = ["Filter", "FilterExport"]
