"""The info plugin: a disk that tells a client about itself, or the time."""

import base64
import binascii
import errno
import socket
import struct
import time
from collections.abc import Callable, Mapping

from nbdfork.plugin import Export, Needs, Parameter, Plugin, client, parse

_SIZE_OF_TIME = 12


class Info(Plugin):
    """a disk whose content is the export name, or a time"""

    mode = Parameter(
        parse.choice("exportname", "base64exportname", "address", "time", "uptime", "conntime"),
        default="exportname",
        magic=True,
        metavar="exportname|base64exportname|address|time|uptime|conntime",
        help="what the disk tells",
    )

    def dump_plugin(self) -> Mapping[str, str]:
        """Tell which modes there are, in the words of nbdkit."""
        return {"info_address": "yes", "info_base64": "yes"}

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._start = time.monotonic()

    def open(self, export_name: str, read_only: bool) -> Export:
        if self.mode == "exportname":
            return Text(export_name.encode())
        if self.mode == "base64exportname":
            return Text(_decoded(export_name))
        if self.mode == "address":
            return Text(_address().encode())
        if self.mode == "time":
            return Clock(time.time)
        start = self._start if self.mode == "uptime" else time.monotonic()
        return Clock(lambda: time.monotonic() - start)


def _address() -> str:
    """Return the client's address and port; "unix" for a client on a Unix domain socket."""
    found = client.current()
    if found is None or found.family == socket.AF_UNIX:
        return "unix"
    host, port = found.getpeername()[:2]
    if found.family == socket.AF_VSOCK:
        return f"vsock:{host}:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise OSError(errno.ENOENT, f"the export name is not base64: {error}") from None


class Text(Export):
    """A disk of constant bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def get_size(self) -> int:
        return len(self._content)

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        return self._content[offset : offset + count]

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: it is in memory."""


class Clock(Export):
    """A disk of 12 bytes: seconds in 64 bits and microseconds in 32, big-endian.

    They are consistent if they are read with one request.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds

    def get_size(self) -> int:
        return _SIZE_OF_TIME

    def pread(self, count: int, offset: int) -> bytes:
        seconds, microseconds = divmod(int(self._seconds() * 1_000_000), 1_000_000)
        return struct.pack(">QI", seconds, microseconds)[offset : offset + count]
