"""The tar filter: serve one file of a tar archive, in its place.

The headers of the archive are read one after another until the file is found.  All workers share
where that is.  What clients write goes into the archive.
"""

import errno
import struct
import tarfile

from nbdfork.filters._part import PartExport
from nbdfork.filters._source import IndexStore, Source
from nbdfork.plugin import Export, Filter, Needs, Parameter, parse

_PLACE = struct.Struct("<QQ")  # offset and length
_MOST_NAMES = 20  # in a message


class Tar(Filter):
    """serve a file of a tar archive"""

    tar_entry = Parameter(
        str, required=True, magic=True, metavar="PATH", help="the file, as tar lists it"
    )
    tar_limit = Parameter(
        parse.size, default=0, metavar="SIZE", help="how much is looked at; 0: all of it"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._found = IndexStore()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        source = Source(next, f"export {export_name!r}" if export_name else "the disk below")
        learnt = self._found.get(source, lambda: (self._find(source), []))
        offset, length = _PLACE.unpack(learnt.facts)
        return PartExport(next, offset, length, f"tar-entry={self.tar_entry}")

    def _find(self, source: Source) -> bytes:
        """Return the place of the file.  Raises OSError, and tells which files there are."""
        end = min(self.tar_limit or source.end, source.end)
        wanted = self.tar_entry.removeprefix("./")
        names: list[str] = []
        try:
            with tarfile.open(fileobj=source.limited(end), mode="r:") as archive:
                for member in archive:
                    if member.name.removeprefix("./") == wanted:
                        return self._place(member)
                    names.append(member.name)
                    archive.members = []  # type: ignore[attr-defined] # or it would keep them all
        except tarfile.TarError as error:
            if not names or end == source.end:
                text = f"{source.name} is no tar archive: {error}"
                raise OSError(errno.EINVAL, text) from error
        listed = ", ".join(names[:_MOST_NAMES]) + (" ..." if len(names) > _MOST_NAMES else "")
        where = f"in the first {end} bytes, " if end < source.end else ""
        raise OSError(
            errno.EINVAL, f"tar-entry={self.tar_entry}: not found; {where}there are: {listed}"
        )

    def _place(self, member: tarfile.TarInfo) -> bytes:
        if not member.isreg() or member.issparse():
            kind = "a sparse file" if member.issparse() else "no regular file"
            raise OSError(errno.EINVAL, f"tar-entry={self.tar_entry}: this is {kind}")
        return _PLACE.pack(member.offset_data, member.size)
