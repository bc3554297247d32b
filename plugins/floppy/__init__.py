"""The floppy plugin: the files of a directory as a disk with a FAT32 file system.

`fat32` computes tables and directories from what the directory holds when the server starts.  The
content of files is not copied, but read from them when a client reads it.
"""

import os
import re
import uuid
import zlib
from collections.abc import Iterator
from itertools import accumulate

from nbdfork.plugin import ConfigError, Export, Needs, Parameter, Plugin, parse

from .._parts import tables
from .._parts.concatenation import Concatenation
from .._parts.files import check_disk
from .._parts.fixed import Fixed
from . import fat32
from .parts import Allocation, Content, Zeroes
from .tree import File, scan

_FAT32_LBA = 0x0C
_ALIGNMENT = 1024 * 1024


def _label(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-][A-Za-z0-9_ -]{,10}", text):
        raise ValueError("use up to 11 of A-Z, 0-9, blank, _ and -; the first must not be blank")
    return text.upper()


class Floppy(Plugin):
    """the files of a directory as a disk with a FAT32 file system"""

    dir = Parameter(
        parse.path,
        required=True,
        magic=True,
        metavar="DIRECTORY",
        help="the directory whose files are on it",
    )
    label = Parameter(_label, default="NBDFORK", metavar="LABEL", help="the name of the volume")
    size = Parameter(
        parse.size, metavar="SIZE", help="the size of the disk (default: what the files need)"
    )

    def config_complete(self) -> None:
        if not os.path.isdir(self.dir):
            raise ConfigError(f"floppy: {self.dir}: there is no directory of this name")

    def needs(self) -> Needs:
        return Needs(read=frozenset({self.dir}))

    def get_ready(self) -> None:
        files = scan(self.dir)
        self._contents = [file.path for file in files if not file.is_directory]
        geometry = self._fit(files)
        self._place(files, geometry)
        layout = tables.mbr([_partition(geometry)])
        parts: list[Export] = [Fixed(layout.tables[0][1])]
        parts.append(Zeroes(layout.starts[0] - parts[0].get_size()))
        parts += self._file_system(files, geometry)
        rest = (self.size or layout.size) - sum(part.get_size() for part in parts)
        self._disk = Concatenation([*parts, Zeroes(rest)])

    def check_access(self, read_only: bool) -> None:
        for path in self._contents:
            check_disk("floppy", path, read_only=True)

    def open(self, export_name: str, read_only: bool) -> Export:
        return self._disk

    def _fit(self, files: list[File]) -> fat32.Geometry:
        """Return a geometry for *files*, and for the size of the disk if that is given."""
        if self.size is None:
            geometry = _smallest(files)
        else:
            geometry = fat32.largest(
                (self.size - _ALIGNMENT) // fat32.SECTOR, _ALIGNMENT // fat32.SECTOR
            )
            needed = max(_clusters(files, geometry), fat32.MIN_CLUSTERS)
            if geometry.clusters < needed:
                least = _smallest(files).sectors * fat32.SECTOR + _ALIGNMENT
                raise ConfigError(
                    f"floppy: size={self.size}: too small: the files, or any FAT32 file system,"
                    f" need more, such as size={least}"
                )
        if geometry.hidden + geometry.sectors >= 2**32:
            raise ConfigError("floppy: the disk would be larger than the 2 TiB that FAT32 can be")
        return geometry

    def _place(self, files: list[File], geometry: fat32.Geometry) -> None:
        """Give each file that is not empty its clusters, one file after another."""
        cluster = fat32.FIRST_CLUSTER
        for file in files:
            if file.size:
                file.cluster = cluster
                cluster += geometry.clusters_for(file.size)

    def _file_system(self, files: list[File], geometry: fat32.Geometry) -> Iterator[Export]:
        placed = [file for file in files if file.size]
        counts = [geometry.clusters_for(file.size) for file in placed]
        used = sum(counts)
        label = self.label.ljust(11).encode()
        serial = zlib.crc32(os.fsencode(self.dir))  # the same each time the directory is served
        yield Fixed(fat32.boot_area(geometry, used, label, serial))
        ends = list(accumulate(counts, initial=fat32.FIRST_CLUSTER))[1:]
        table = Allocation(fat32.Table(ends), geometry.table_sectors * fat32.SECTOR)
        yield from [table] * fat32.TABLES
        for file, count in zip(placed, counts, strict=True):
            size = count * geometry.cluster
            if file.is_directory:
                yield Fixed(file.entries(label).ljust(size, b"\0"))
            else:
                yield Content(file.path, file.size, size)
        yield Zeroes((geometry.clusters - used) * geometry.cluster)


def _clusters(files: list[File], geometry: fat32.Geometry) -> int:
    return sum(geometry.clusters_for(file.size) for file in files)


def _smallest(files: list[File]) -> fat32.Geometry:
    """Return the smallest geometry that *files* fit into."""
    for sectors in fat32.CLUSTER_SIZES:
        geometry = fat32.Geometry(sectors, 0, _ALIGNMENT // fat32.SECTOR)
        clusters = max(_clusters(files, geometry), fat32.MIN_CLUSTERS)
        geometry = geometry._replace(clusters=clusters)
        if fat32.sectors_per_cluster(geometry.sectors) == sectors:
            break
    return geometry


def _partition(geometry: fat32.Geometry) -> tables.Partition:
    size = geometry.sectors * fat32.SECTOR
    no_guid = uuid.UUID(int=0)  # only a GPT has them
    return tables.Partition("", size, _ALIGNMENT, _FAT32_LBA, no_guid, no_guid)
