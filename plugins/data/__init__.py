"""The data plugin: a disk whose content is written on the command line.

The content is put into memory that all clients share, so each sees what the others write.  The
small language that describes it is in `language`.
"""

import base64
import binascii
import os

from nbdfork.plugin import MAY_TRIM, ConfigError, Export, Parameter, Plugin, parse
from nbdfork.plugin.descriptor import DescriptorExport

from .expressions import Expression, Literal
from .language import parse_data


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
        except OSError as error:
            raise ConfigError(f"data: {error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"data: {error}") from None

    def _describe(self) -> Expression:
        if self.data is not None:
            return parse_data(self.data, {**os.environ, **self._variables})
        return Literal(self.base64 or self.raw or b"")

    def get_ready(self) -> None:
        size = self._content.size if self.size is None else self.size
        self._memfd = os.memfd_create("nbdfork-data", os.MFD_CLOEXEC)
        os.ftruncate(self._memfd, size)
        disk = self.open("", False)
        for offset, data in self._content.pieces(0, size):
            if any(data):
                disk.pwrite(memoryview(data), offset, 0)
            else:
                disk.zero(len(data), offset, MAY_TRIM)  # takes no memory
        disk.close()

    def open(self, export_name: str, read_only: bool) -> Export:
        return DescriptorExport(os.dup(self._memfd), writable=not read_only)
