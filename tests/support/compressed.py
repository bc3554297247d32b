"""Compressed disks that the real tools have made, and filters opened over them."""

import errno
import importlib.util
import os
import subprocess

import pytest

from nbdfork.backend.load import FILTER, find
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import Export, Filter, PartialError
from tests.support.harness import need

MIB = 1 << 20

SIZE = 6 * MIB + 1234

LIBRARIES = {
    "gzip": "zlib",
    "xz": "xz",
    "bzip2": "rapidgzip",
    "zstd": "backports.zstd",
    "lz4": "lz4",
}

COMMANDS = {
    "gzip": "gzip -1",
    "xz": "xz -1 --block-size=1MiB",
    "bzip2": "bzip2 -1",
    "zstd": "pzstd -q -p 2 -1",
    "lz4": "split -b 1M --filter=lz4",
}
"""What makes data of each format, from what it reads to what it writes; of many blocks."""


def missing(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is None
    except ModuleNotFoundError:  # not even the package that it is in
        return True


def need_libraries(*names: str) -> None:
    """Skip the test on a user's machine without the libraries for the formats *names*."""
    absent = [name for name in names if missing(LIBRARIES[name])]
    if absent and not os.environ.get("NBDFORK_CI"):
        pytest.skip(f"no libraries for: {', '.join(absent)}")


def compressed(name: str, data: bytes, command: str = "") -> bytes:
    need_libraries(name)
    command = command or COMMANDS[name]
    need(command.split()[0], name)
    done = subprocess.run(
        ["sh", "-c", command], input=data, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Below(Export):
    """A disk of *data* that counts what is read, and can fail."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read = 0
        self.broken = False
        self.closed = False

    def get_size(self) -> int:
        return len(self.data)

    def pread(self, count: int, offset: int) -> bytes:
        if self.broken:
            raise OSError(errno.ENETDOWN, "the cable is out")
        self.read += count
        return self.data[offset : offset + count]

    def close(self) -> None:
        self.closed = True


def filter_of(name: str, **parameters: object) -> UnpackFilter:
    made = find(name, FILTER).plugin_class(**parameters)
    assert isinstance(made, Filter)
    made.get_ready()
    assert isinstance(made, UnpackFilter)
    return made


OPEN: list[Export] = []
"""What a test has opened."""


def kept(export: Export) -> Export:
    OPEN.append(export)
    return export


def unpacked(name: str, data: bytes, **parameters: object) -> Export:
    need_libraries(name)
    return kept(filter_of(name, **parameters).unpack(Below(data), "disk"))


def all_of(export: Export) -> bytes:
    size = export.get_size()
    return b"".join(export.pread(min(MIB, size - offset), offset) for offset in range(0, size, MIB))


def refusal(name: str, data: bytes, **parameters: object) -> str:
    with pytest.raises(OSError) as caught:
        unpacked(name, data, **parameters)
    assert caught.value.errno in (errno.EINVAL, errno.EIO)
    return caught.value.strerror or ""


def read_error(export: Export, count: int, offset: int) -> tuple[str, int]:
    """Return what a read that must fail says, and how many bytes of it are good."""
    with pytest.raises(OSError) as caught:
        export.pread(count, offset)
    error = caught.value
    assert error.errno == errno.EIO
    return error.strerror or "", error.done if isinstance(error, PartialError) else 0


def seek_table(frames: list[bytes], content: bytes, checksums: bool) -> bytes:
    """Return a table as contrib/seekable_format of zstd has it, with wrong checksums, if any."""
    entries = b""
    for number, frame in enumerate(frames):
        size = len(content[number * MIB : (number + 1) * MIB])
        entries += len(frame).to_bytes(4, "little") + size.to_bytes(4, "little")
        entries += bytes(4) if checksums else b""
    footer = len(frames).to_bytes(4, "little") + bytes([0x80 if checksums else 0])
    footer += 0x8F92EAB1.to_bytes(4, "little")
    length = len(entries) + len(footer)
    return 0x184D2A5E.to_bytes(4, "little") + length.to_bytes(4, "little") + entries + footer


def smashed(data: bytes, at: int) -> bytes:
    return data[:at] + b"\xff" * 2000 + data[at + 2000 :]


def all_of_first(export: Export, size: int) -> bytes:
    return bytes(export.pread(size, 0))
