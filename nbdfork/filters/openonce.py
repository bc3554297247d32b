"""The openonce filter: open each export of the plugin once, for all clients and for good.

They are then all served by one process, because what is open cannot be handed to another.
"""

from threading import Lock

from nbdfork.plugin import Export, Filter, FilterExport, Needs


class OpenOnce(Filter):
    """open each export once for all clients"""

    def needs(self) -> Needs:
        return Needs()

    def one_process(self) -> bool:
        return True

    def config_complete(self) -> None:
        self._lock = Lock()
        self._opened: dict[tuple[str, bool], Export] = {}

    def open(self, export_name: str, read_only: bool) -> Export:
        key = (export_name, read_only)
        with self._lock:
            if key not in self._opened:
                self._opened[key] = self.next.open(export_name, read_only)
            return SharedExport(self._opened[key])

    def cleanup(self) -> None:
        while self._opened:
            self._opened.popitem()[1].close()


class SharedExport(FilterExport):
    """*next*, which others have as well."""

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def close(self) -> None:
        """Leave *next* as it is for others."""
