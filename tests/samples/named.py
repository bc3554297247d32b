"""A plugin with two exports."""

import errno
from collections.abc import Iterable

from nbdfork.plugin import Export, ExportInfo, Plugin

NAMES = ("alpha", "beta")
DESCRIPTION = "demo disk"


class _Disk(Export):
    def __init__(self, name: str) -> None:
        self.name = name

    def get_size(self) -> int:
        return 1 << 20

    def description(self) -> str:
        return DESCRIPTION

    def pread(self, count: int, offset: int) -> bytes:
        return self.name[:1].encode() * count


class Named(Plugin):
    """two exports, alpha and beta; there is no default"""

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        return [ExportInfo(name, DESCRIPTION) for name in NAMES]

    def open(self, export_name: str, read_only: bool) -> Export:
        if export_name not in NAMES:
            raise OSError(errno.ENOENT, "neither alpha nor beta")
        return _Disk(export_name)
