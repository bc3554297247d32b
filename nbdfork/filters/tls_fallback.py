"""The tls-fallback filter: let clients without TLS see a message in place of the disk."""

from collections.abc import Iterable

from nbdfork.plugin import (
    ConfigError,
    Export,
    ExportInfo,
    Filter,
    Needs,
    Parameter,
    ThreadModel,
    client,
)

_SECTOR = 512
_MESSAGE = (
    "This NBD server serves its disks to clients that use TLS, and this text to all others.\n"
)


class TlsFallback(Filter):
    """show clients without TLS a message"""

    tlsreadme = Parameter(str, metavar="MESSAGE", help="what they read instead of a usual text")

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        plugin = self.next
        while isinstance(plugin, Filter):
            plugin = plugin.next
        if plugin.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS:
            raise ConfigError(
                "tls-fallback: the plugin serves one client at a time, so one without TLS could"
                " keep out all others"
            )
        message = _MESSAGE if self.tlsreadme is None else self.tlsreadme
        text = message.encode(errors="surrogateescape")
        self._content = text.ljust(-(-max(len(text), 1) // _SECTOR) * _SECTOR, b"\0")

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        return self.next.list_exports(read_only) if client.is_tls() else [ExportInfo("")]

    def default_export(self, read_only: bool) -> str:
        return self.next.default_export(read_only) if client.is_tls() else ""

    def open(self, export_name: str, read_only: bool) -> Export:
        if client.is_tls():
            return super().open(export_name, read_only)
        return MessageExport(self._content)


class MessageExport(Export):
    """A disk with nothing but a text."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def get_size(self) -> int:
        return len(self._content)

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> memoryview:
        return memoryview(self._content)[offset : offset + count]
