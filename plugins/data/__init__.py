"""The data plugin: a disk whose content is written on the command line.

The content is put into memory that all clients share, so each sees what the others write.  The
small language that describes it is in `language`.
"""

import base64
import binascii
import mmap
import os

from nbdfork.plugin import (
    MAY_TRIM,
    ConfigError,
    DescriptorExport,
    Export,
    Needs,
    Parameter,
    Plugin,
    parse,
)

from .._parts.allocator import FORMS, Allocator, allocator, made
from .expressions import Expression, literal, weight_of
from .language import parse_data
from .sources import Sources


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from None


class Data(Plugin):
    """a disk whose content is written on the command line"""

    data = Parameter(
        str, magic=True, metavar="DATA", help='the content, as in: 0x55 0xaa "text" @512 <file'
    )
    base64 = Parameter(_base64, metavar="BASE64", help="the content, encoded in base64")
    raw = Parameter(os.fsencode, metavar="BYTES", help="the content, as it is")
    size = Parameter(
        parse.size, metavar="SIZE", help="the size of the disk (default: that of the content)"
    )
    allocator = Parameter(
        allocator, default=Allocator(), metavar=FORMS, help="how its memory is taken"
    )
    max_memory = Parameter(
        parse.size,
        default=1024 * 1024 * 1024,
        metavar="SIZE",
        help="the most that the content may take, apart from zeroes",
    )

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._variables: dict[str, str] = {}

    def config(self, key: str, value: str) -> None:
        """Take any other key as a variable, which the data can use as $key."""
        self._variables[key] = value

    def config_complete(self) -> None:
        if sum(given is not None for given in (self.data, self.base64, self.raw)) != 1:
            raise ConfigError("data: give exactly one of data=DATA, base64=BASE64 and raw=BYTES")
        try:
            self._content = self._describe()
            self._check_weight()
        except OSError as error:
            raise ConfigError(f"data: {error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"data: {error}") from None

    def _describe(self) -> Expression:
        if self.data is not None:
            sources = Sources(self.max_memory, "max-memory")
            return parse_data(self.data, {**os.environ, **self._variables}, sources)
        return literal(self.base64 or self.raw or b"")

    def _disk_size(self) -> int:
        return self._content.size if self.size is None else self.size

    def _check_weight(self) -> None:
        """Refuse what would take too much memory, before any of it is made."""
        weight = weight_of(self._content, self._disk_size())
        if weight > self.max_memory:
            raise ValueError(
                f"the content would take {weight} bytes of memory, more than"
                f" max-memory={self.max_memory}: give a smaller size=, or raise max-memory"
            )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        size = self._disk_size()
        self._kept: list[mmap.mmap] = []
        self._disk = made("data", self.allocator, size, self._kept.append)
        if not self._disk.is_new:  # clients may have written to it
            return
        disk = self.open("", False)
        for offset, count, content in self._content.pieces(0, min(size, self._content.size)):
            if content is not None:
                disk.pwrite(memoryview(content), offset, 0)
            else:
                disk.zero(count, offset, MAY_TRIM)  # takes no memory
        disk.close()

    def open(self, export_name: str, read_only: bool) -> Export:
        return DescriptorExport(os.dup(self._disk.fd), writable=not read_only)
