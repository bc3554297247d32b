"""One client's disk, opened through a VixDiskLib connection of its own.

One thread at a time makes the calls for a client.  Opening and closing is done by one thread at a
time in the whole process.
"""

import ctypes
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nbdfork.plugin import HOLE, REQ_ONE, ZERO, BlockSize, Export, Extent

from .library import Library
from .structs import (
    CHUNK_SECTORS,
    CREDENTIALS_SESSION_ID,
    CREDENTIALS_UID,
    MAX_CHUNKS,
    OPEN_SINGLE_LINK,
    SECTOR,
    BlockList,
    ConnectParams,
    Info,
    OwnConnectParams,
    blocks_of,
)

log = logging.getLogger(__name__)

_CHUNK = CHUNK_SECTORS * SECTOR


@dataclass(frozen=True)
class Server:
    """The server that has a disk, the virtual machine it belongs to, and the login.

    With a *cookie*, it is an existing session, and *password* is the key of that.  A port of 0
    means the default.
    """

    name: bytes
    user: bytes
    password: bytes = field(repr=False)
    vm: bytes
    cookie: bytes | None = field(repr=False)
    thumbprint: bytes | None
    port: int
    nfc_port: int

    def fill(self, params: ConnectParams) -> None:
        """Write it to *params*, which must not outlive this object."""
        params.vmxSpec = self.vm
        params.serverName = self.name
        params.thumbPrint = self.thumbprint
        params.port = self.port
        params.nfcHostPort = self.nfc_port
        if self.cookie is None:
            params.credType = CREDENTIALS_UID
            params.creds.uid.userName = self.user
            params.creds.uid.password = self.password
        else:
            params.credType = CREDENTIALS_SESSION_ID
            params.creds.sessionId.cookie = self.cookie
            params.creds.sessionId.userName = self.user
            params.creds.sessionId.key = self.password


@dataclass(frozen=True)
class Access:
    """How disks are reached, on a *server* or in local files, and how they are opened."""

    server: Server | None
    snapshot: bytes | None
    transports: bytes | None
    flags: int


class VixConnection:
    """A connection of VixDiskLib, to a server or to local files."""

    def __init__(self, library: Library, access: Access, read_only: bool) -> None:
        self._library = library
        self._allocated = library.AllocateConnectParams and library.FreeConnectParams
        params = library.AllocateConnectParams() if self._allocated else None
        if self._allocated and not params:
            raise MemoryError("VixDiskLib_AllocateConnectParams")
        # Kept, because it keeps the strings, which the library does not promise to copy.
        self._params = params.contents if params else OwnConnectParams().known
        self.handle = ctypes.c_void_p()
        try:
            if access.server is not None:
                access.server.fill(self._params)
            error = library.ConnectEx(
                ctypes.byref(self._params),
                read_only,
                access.snapshot,
                access.transports,
                ctypes.byref(self.handle),
            )
            library.check(error, "VixDiskLib_ConnectEx")
        except BaseException:
            self._free()
            raise

    def close(self) -> None:
        """Disconnect.  Raises OSError."""
        try:
            self._library.check(self._library.Disconnect(self.handle), "VixDiskLib_Disconnect")
        finally:
            self._free()

    def _free(self) -> None:
        if self._allocated:
            self._library.FreeConnectParams(ctypes.byref(self._params))


class DiskExport(Export):
    """One client's view of the disk *path*, as VDDK names it."""

    def __init__(
        self,
        library: Library,
        access: Access,
        path: bytes,
        read_only: bool,
        flags: int,
        trace: bool,
    ) -> None:
        self._library = library
        self._read_only = read_only
        # What a single link of a chain has not allocated is in the links below, and not zero.
        self._hole = HOLE if flags & OPEN_SINGLE_LINK else HOLE | ZERO
        with library.one_at_a_time:
            self._connection = VixConnection(library, access, read_only)
            self._handle = ctypes.c_void_p()
            try:
                opened = library.Open(
                    self._connection.handle, path, flags, ctypes.byref(self._handle)
                )
                library.check(opened, f"VixDiskLib_Open: {path.decode(errors='replace')}")
            except BaseException:
                self._connection.close()
                raise
        try:
            self._size = self._get_size(trace)
        except BaseException:
            self.close()
            raise

    def _get_size(self, trace: bool) -> int:
        mode = self._library.GetTransportMode(self._handle) or b"unknown"
        log.debug("vddk: transport mode: %s", mode.decode(errors="replace"))
        info: Any = ctypes.POINTER(Info)()
        self._check("GetInfo", self._handle, ctypes.byref(info))
        try:
            found = info.contents
            if trace:
                parent = (found.parentFileNameHint or b"none").decode(errors="replace")
                log.debug("diskinfo: capacity: %d sectors", found.capacity)
                log.debug("diskinfo: BIOS geometry: %s", found.biosGeo)
                log.debug("diskinfo: physical geometry: %s", found.physGeo)
                log.debug("diskinfo: adapter type: %d", found.adapterType)
                log.debug("diskinfo: links: %d; parent: %s", found.numLinks, parent)
            return int(found.capacity) * SECTOR
        finally:
            self._library.FreeInfo(info)

    def _check(self, function: str, *arguments: object) -> None:
        """Call *function* of the library.  Raises OSError."""
        self._library.check(getattr(self._library, function)(*arguments), f"VixDiskLib_{function}")

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        return self._size

    def block_size(self) -> BlockSize:
        return BlockSize(minimum=SECTOR)

    def can_write(self) -> bool:
        return not self._read_only

    def can_flush(self) -> bool:
        return self._library.Flush is not None

    def can_extents(self) -> bool:
        """Try it: whether it works depends on the server, the transport and the disk."""
        if not (self._library.QueryAllocatedBlocks and self._library.FreeBlockList):
            return False
        if self._size < _CHUNK:
            return False
        try:
            self._allocated(0, _CHUNK)
        except OSError as error:
            log.debug("vddk: no extents: %s", error)
            return False
        return True

    # -- operations ---------------------------------------------------------------------

    def pread_into(self, data: memoryview, offset: int) -> None:
        buffer = (ctypes.c_char * len(data)).from_buffer(data)
        self._check("Read", self._handle, offset // SECTOR, len(data) // SECTOR, buffer)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        # A copy, because ctypes cannot get at the memory of a read-only view.
        self._check("Write", self._handle, offset // SECTOR, len(data) // SECTOR, bytes(data))

    def flush(self) -> None:
        self._check("Flush", self._handle)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        found = self._chunks(count, offset)
        return itertools.islice(found, 1) if flags & REQ_ONE else found

    def _chunks(self, count: int, offset: int) -> Iterator[Extent]:
        """Tell what is allocated, by chunks; of the end of a disk that is no whole chunk the
        library cannot be asked, so it counts as data.
        """
        chunks_end = self._size - self._size % _CHUNK
        end = min(-(-(offset + count) // _CHUNK) * _CHUNK, chunks_end)
        position = offset - offset % _CHUNK
        while position < end:
            part_end = min(end, position + MAX_CHUNKS * _CHUNK)
            for start, length in self._allocated(position, part_end - position):
                if position < start:
                    yield Extent(position, start - position, self._hole)
                yield Extent(start, length, 0)
                position = start + length
            if position < part_end:
                yield Extent(position, part_end - position, self._hole)
            position = part_end
        if offset + count > chunks_end:
            yield Extent(chunks_end, self._size - chunks_end, 0)

    def _allocated(self, start: int, length: int) -> list[tuple[int, int]]:
        """Return what is allocated of a range of whole chunks, as (start, length) in bytes."""
        found: Any = ctypes.POINTER(BlockList)()
        sectors = (start // SECTOR, length // SECTOR, CHUNK_SECTORS)
        self._check("QueryAllocatedBlocks", self._handle, *sectors, ctypes.byref(found))
        try:
            return blocks_of(found.contents)
        finally:
            self._library.FreeBlockList(found)

    def close(self) -> None:
        with self._library.one_at_a_time:
            try:
                self._check("Close", self._handle)
            finally:
                self._connection.close()
