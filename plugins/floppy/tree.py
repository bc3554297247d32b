"""The files and directories below a directory, with their names on the disk."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from nbdfork.plugin import ConfigError

from . import fat32
from .names import Name, Names


@dataclass
class File:
    """A file or a directory.

    *size* is that of its content in bytes; *cluster* is its first one, or 0 if it is empty.
    """

    path: str
    name: Name
    size: int
    modified: float
    parent: "File | None" = None
    children: list["File"] = field(default_factory=list)
    is_directory: bool = False
    cluster: int = 0

    def entries(self, label: bytes) -> bytes:
        """Return the content of a directory; that of the root begins with *label*."""
        if self.parent is None:
            first = fat32.label_entry(label, self.modified)
        else:
            above = self.parent
            parent = above.cluster if above.parent is not None else fat32.ROOT
            first = fat32.dot_entries(self.cluster, parent, self.modified)
        return first + b"".join(
            fat32.file_entries(
                child.name,
                child.cluster,
                None if child.is_directory else child.size,
                child.modified,
            )
            for child in self.children
        )


def scan(directory: str) -> list[File]:
    """Return the directory itself, and all files and directories below it, parents first.

    Everything else is left out, also symbolic links.  Raises OSError, and `ConfigError` for what is
    too large.
    """
    root = File(directory, Name("", b""), 0, os.stat(directory).st_mtime, is_directory=True)
    return list(_walk(root))


def _walk(directory: File) -> Iterator[File]:
    names = Names()
    with os.scandir(directory.path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            is_directory = entry.is_dir(follow_symlinks=False)
            if is_directory or entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                size = 0 if is_directory else status.st_size
                if size > fat32.MAX_FILE_SIZE:
                    raise ConfigError(f"floppy: {entry.path}: files must be smaller than 4 GiB")
                name = names.choose(entry.name)
                child = File(entry.path, name, size, status.st_mtime, directory)
                child.is_directory = is_directory
                directory.children.append(child)
    own = 1 if directory.parent is None else 2  # the label, or "." and ".."
    count = own + sum(fat32.entry_count(child.name) for child in directory.children)
    directory.size = count * fat32.ENTRY
    if directory.size > fat32.MAX_DIRECTORY_SIZE:
        raise ConfigError(f"floppy: {directory.path}: has too many files for a FAT directory")
    yield directory
    for child in directory.children:
        if child.is_directory:
            yield from _walk(child)
        else:
            yield child
