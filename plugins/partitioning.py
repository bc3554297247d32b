"""The partitioning plugin: files as the partitions of one disk.

The partition table is not in any file: `tables` computes it when the server starts.  This file
collects the parameters, and puts the tables, the files and the padding between them in a row.
"""

import errno
import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

from nbdfork.plugin import ConfigError, Export, LostWrites, Needs, Parameter, Plugin, parse

from ._parts import tables
from ._parts.concatenation import Concatenation
from ._parts.files import check_part, check_servable, open_part
from ._parts.fixed import Fixed

_LINUX_BYTE = 0x83
_LINUX_GUID = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
_MAX_ALIGNMENT = 1024 * 1024

_positions = itertools.count()


class Given(NamedTuple):
    """An argument of the command line, with its position there.

    The position matters because some parameters apply to the files that follow them.
    """

    position: int
    key: str
    value: Any


def _ordered(key: str, parse_value: Callable[[str], Any]) -> Callable[[str], Given]:
    return lambda text: Given(next(_positions), key, parse_value(text))


def _alignment(text: str) -> int:
    value = parse.size(text)
    if not tables.SECTOR <= value <= _MAX_ALIGNMENT or value & (value - 1):
        raise ValueError("expected a power of 2 from 512 to 1M")
    return value


def _mbr_id(text: str) -> int:
    if text == "default":
        return _LINUX_BYTE
    try:
        value = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        value = -1
    if not 0 <= value <= 0xFF:
        raise ValueError("expected a byte, as in 0x82, or the word default")
    return value


def _type_guid(text: str) -> uuid.UUID:
    if text == "default":
        return _LINUX_GUID
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ValueError(f"expected a GUID like {_LINUX_GUID}, or the word default") from None


class Partitioning(Plugin):
    """files as the partitions of one disk"""

    file = Parameter(
        _ordered("file", parse.path),
        required=True,
        repeatable=True,
        magic=True,
        metavar="FILENAME",
        help="the content of the next partition",
    )
    partition_type = Parameter(
        parse.choice("mbr", "gpt"),
        metavar="mbr|gpt",
        help="the kind of table (default: mbr, unless there is too much for it)",
    )
    alignment = Parameter(
        _ordered("alignment", _alignment),
        repeatable=True,
        metavar="SIZE",
        help="where the following partitions may begin: at multiples of this (default: 1M)",
    )
    mbr_id = Parameter(
        _ordered("mbr_id", _mbr_id),
        repeatable=True,
        metavar="BYTE|default",
        help="the type of the following partitions in an MBR (default: 0x83)",
    )
    type_guid = Parameter(
        _ordered("type_guid", _type_guid),
        repeatable=True,
        metavar="GUID|default",
        help="the type of the following partitions in a GPT (default: Linux filesystem)",
    )

    def config_complete(self) -> None:
        self._paths: list[str] = []
        self._partitions: list[tables.Partition] = []
        setting: dict[str, Any] = {
            "alignment": _MAX_ALIGNMENT,
            "mbr_id": _LINUX_BYTE,
            "type_guid": _LINUX_GUID,
        }
        for given in sorted(self._given()):
            if given.key != "file":
                setting[given.key] = given.value
                continue
            path = given.value
            shown = os.fsencode(path).decode(errors="backslashreplace")
            name = f"{len(self._paths) + 1}:{shown}"
            self._paths.append(path)
            self._partitions.append(
                tables.Partition(
                    os.path.basename(path),
                    _size_of(path),
                    # The GUID is made from the name, so it is the same each time.
                    guid=uuid.uuid5(uuid.NAMESPACE_URL, f"file:{name}"),
                    **setting,
                )
            )
        self._layout = self._lay_out()

    def _given(self) -> Iterator[Given]:
        """Yield all arguments.  Plain values, which a program may have set, apply to all files."""
        for key in ("alignment", "mbr_id", "type_guid", "file"):
            for value in getattr(self, key):
                plain = not isinstance(value, Given)
                yield Given(next(_positions), key, value) if plain else value

    def _lay_out(self) -> tables.Layout:
        total = sum(partition.size for partition in self._partitions)
        is_small = total <= tables.MAX_MBR_SIZE
        is_small = is_small and len(self._partitions) <= tables.PRIMARY_PARTITIONS
        if self.partition_type == "gpt" or (self.partition_type is None and not is_small):
            return tables.gpt(self._partitions)
        try:
            return tables.mbr(self._partitions)
        except OverflowError as error:
            raise ConfigError(
                f"partitioning: {total} bytes are too much for an MBR: use partition-type=gpt"
            ) from error

    def needs(self) -> Needs:
        return Needs(write=frozenset(self._paths))

    def get_ready(self) -> None:
        self._lost = LostWrites()

    def check_access(self, read_only: bool) -> None:
        for path in self._paths:
            check_part("partitioning", path, read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        with ExitStack() as opened:
            disk = Concatenation(list(self._parts(read_only, opened)))
            opened.pop_all()  # from now on, the disk closes them
        return disk

    def _parts(self, read_only: bool, opened: ExitStack) -> Iterator[Export]:
        """Yield the parts of the disk, from its first byte to its last."""
        places: list[tuple[int, bytes | int]] = [*self._layout.tables]
        places += zip(self._layout.starts, range(len(self._paths)), strict=True)
        end = 0
        for offset, content in sorted(places, key=lambda place: place[0]):
            if offset > end:
                yield Fixed(bytes(offset - end))
            if isinstance(content, bytes):
                part: Export = Fixed(content)
            else:
                part = self._open_file(content, read_only)
                opened.callback(part.close)
            yield part
            end = offset + part.get_size()
        if self._layout.size > end:
            yield Fixed(bytes(self._layout.size - end))

    def _open_file(self, number: int, read_only: bool) -> Export:
        path = self._paths[number]
        part = open_part(path, read_only, self._lost)
        if part.get_size() != self._partitions[number].size:
            part.close()
            raise OSError(errno.EIO, f"{path} has another size than when the server started")
        return part


def _size_of(path: str) -> int:
    check_servable("partitioning", path)
    try:
        file = open_part(path, read_only=True)
    except OSError as error:
        raise ConfigError(f"partitioning: {path}: {error.strerror}") from error
    size = file.get_size()
    file.close()
    if not size:
        raise ConfigError(f"partitioning: {path}: is empty; a partition needs a file with content")
    return size
