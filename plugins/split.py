"""The split plugin: files one after another, as one disk."""

from contextlib import ExitStack

from nbdfork.plugin import Export, LostWrites, Needs, Parameter, Plugin, parse

from ._parts.concatenation import Concatenation
from ._parts.files import check_part, check_servable, open_part


class Split(Plugin):
    """files, concatenated to one disk"""

    file = Parameter(
        parse.path,
        required=True,
        repeatable=True,
        magic=True,
        metavar="FILENAME",
        help="the next part of the disk",
    )

    def config_complete(self) -> None:
        for path in self.file:
            check_servable("split", path)

    def needs(self) -> Needs:
        return Needs(write=frozenset(self.file))

    def get_ready(self) -> None:
        self._lost = LostWrites()

    def check_access(self, read_only: bool) -> None:
        for path in self.file:
            check_part("split", path, read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        with ExitStack() as opened:
            parts: list[Export] = []
            for path in self.file:
                parts.append(open_part(path, read_only, self._lost))
                opened.callback(parts[-1].close)
            disk = Concatenation(parts)
            opened.pop_all()  # from now on, the disk closes them
        return disk
