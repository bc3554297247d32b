"""The ddrescue filter: fail where ddrescue has not read the disk, by the map that it has kept."""

import errno
import re

from nbdfork.plugin import (
    Buffer,
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    Support,
    parse,
)

_LINE = re.compile(r"(0x[0-9A-Fa-f]{1,16})\s+(0x[0-9A-Fa-f]{1,16})\s+([?*/+-])")


class DdRescue(Filter):
    """fail where ddrescue has not read the disk"""

    opens_read_only = True

    ddrescue_mapfile = Parameter(
        parse.path, required=True, metavar="FILENAME", help="the map of GNU ddrescue"
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        try:
            with open(self.ddrescue_mapfile, encoding="ascii", errors="replace") as lines:
                self._good = list(_good_ranges(list(lines)))
        except OSError as error:
            text = f"ddrescue: ddrescue-mapfile={self.ddrescue_mapfile}: {error.strerror}"
            raise ConfigError(text) from error
        except ValueError as error:
            text = f"ddrescue: ddrescue-mapfile={self.ddrescue_mapfile}: {error}"
            raise ConfigError(text) from None

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return RescuedExport(next, self._good)


def _good_ranges(lines: list[str]) -> list[tuple[int, int]]:
    """Return start and end of what has been read, in their order.  Raises ValueError.

    The first line that is no comment says where ddrescue is, and all others are about a range.
    """
    found: list[tuple[int, int]] = []
    texts = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    texts = [(number, text) for number, text in texts if text and not text.startswith("#")]
    for number, text in texts[1:]:
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError(f"line {number}: expected POSITION SIZE STATUS, such as 0x0 0x200 +")
        if match[3] == "+":
            start = int(match[1], 16)
            end = start + int(match[2], 16)
            if found and found[-1][1] == start:
                start = found.pop()[0]
            found.append((start, end))
    return sorted(found)


class RescuedExport(FilterExport):
    """*next*, of which only the *good* ranges can be read, and nothing written."""

    def __init__(self, next: Export, good: list[tuple[int, int]]) -> None:
        super().__init__(next)
        self._good = good

    def can_write(self) -> bool:
        return False

    def pread(self, count: int, offset: int) -> Buffer:
        self._check(count, offset)
        return self.next.pread(count, offset)

    def view(self, count: int, offset: int) -> Buffer | None:
        self._check(count, offset)
        return self.next.view(count, offset)

    def can_cache(self) -> Support:
        return Support.NONE

    def _check(self, count: int, offset: int) -> None:
        if not any(start <= offset and offset + count <= end for start, end in self._good):
            raise OSError(errno.EIO, f"not all of {count} bytes at {offset} were rescued")
