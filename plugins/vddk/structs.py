"""The numbers and structs of VMware's VixDiskLib, as its vixDiskLib.h lays them out on x86-64.

Nothing here calls the library.  Structs that have grown from version to version have the part that
all versions have.
"""

import errno
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    Union,
    c_byte,
    c_char_p,
    c_int,
    c_long,
    c_uint32,
    c_uint64,
    c_void_p,
    pointer,
)
from typing import Any

SECTOR = 512
"""The size of a sector in bytes (VIXDISKLIB_SECTOR_SIZE); offsets and lengths are in sectors."""

CHUNK_SECTORS = 128
"""The finest resolution of QueryAllocatedBlocks (VIXDISKLIB_MIN_CHUNK_SIZE)."""

MAX_CHUNKS = 512 * 1024
"""The most that QueryAllocatedBlocks tells in one call (VIXDISKLIB_MAX_CHUNK_NUMBER)."""

OPEN_UNBUFFERED = 1 << 0
OPEN_SINGLE_LINK = 1 << 1
OPEN_READ_ONLY = 1 << 2
OPEN_COMPRESSION = {"none": 0, "zlib": 1 << 4, "fastlz": 1 << 5, "skipz": 1 << 6}

CREDENTIALS_UID = 1
CREDENTIALS_SESSION_ID = 2

ERRNOS = {
    2: errno.ENOMEM,  # VIX_E_OUT_OF_MEMORY
    3: errno.EINVAL,  # VIX_E_INVALID_ARG
    4: errno.ENOENT,  # VIX_E_FILE_NOT_FOUND
    5: errno.EBUSY,  # VIX_E_OBJECT_IS_BUSY
    6: errno.EOPNOTSUPP,  # VIX_E_NOT_SUPPORTED
    8: errno.ENOSPC,  # VIX_E_DISK_FULL
    11: errno.EROFS,  # VIX_E_FILE_READ_ONLY
    13: errno.EACCES,  # VIX_E_FILE_ACCESS_ERROR
    15: errno.EBUSY,  # VIX_E_FILE_ALREADY_LOCKED
}
"""The error codes that correspond to an errno; any other is EIO."""

VixError = c_uint64


def error_code(error: int) -> int:
    """Return the code in a VixError; its higher bits are a system error (VIX_ERROR_CODE)."""
    return error & 0xFFFF


class UidCredentials(Structure):
    """VixDiskLibUidPasswdCreds"""

    _fields_ = [("userName", c_char_p), ("password", c_char_p)]


class SessionIdCredentials(Structure):
    """VixDiskLibSessionIdCreds"""

    _fields_ = [("cookie", c_char_p), ("userName", c_char_p), ("key", c_char_p)]


class Credentials(Union):
    """VixDiskLibCreds"""

    _fields_ = [
        ("uid", UidCredentials),
        ("sessionId", SessionIdCredentials),
        ("ticketId", c_void_p),
    ]


class ConnectParams(Structure):
    """VixDiskLibConnectParams, to nfcHostPort.

    The rest differs from version to version, and zeroes there mean defaults: for example, that
    vmxSpec names a virtual machine.
    """

    _fields_ = [
        ("vmxSpec", c_char_p),
        ("serverName", c_char_p),
        ("thumbPrint", c_char_p),
        ("privateUse", c_long),
        ("credType", c_int),
        ("creds", Credentials),
        ("port", c_uint32),
        ("nfcHostPort", c_uint32),
    ]


class OwnConnectParams(Structure):
    """The same, for a library that does not allocate it, with room for the rest."""

    _fields_ = [("known", ConnectParams), ("unknown", c_byte * 1024)]


class Geometry(Structure):
    """VixDiskLibGeometry"""

    _fields_ = [("cylinders", c_uint32), ("heads", c_uint32), ("sectors", c_uint32)]

    def __str__(self) -> str:
        return f"{self.cylinders}/{self.heads}/{self.sectors}"


class Info(Structure):
    """VixDiskLibInfo, to parentFileNameHint"""

    _fields_ = [
        ("biosGeo", Geometry),
        ("physGeo", Geometry),
        ("capacity", c_uint64),
        ("adapterType", c_int),
        ("numLinks", c_int),
        ("parentFileNameHint", c_char_p),
    ]


class Block(Structure):
    """VixDiskLibBlock: a range, in sectors"""

    _fields_ = [("offset", c_uint64), ("length", c_uint64)]


class BlockList(Structure):
    """VixDiskLibBlockList; there are numBlocks of *blocks*."""

    _fields_ = [("numBlocks", c_uint32), ("blocks", Block * 1)]


LogFunction = CFUNCTYPE(None, c_void_p, c_void_p)
"""VixDiskLibGenericLogFunc: a format and a va_list, which is passed as a pointer."""

_Text = c_char_p
_Handle = c_void_p
_Sectors = c_uint64

REQUIRED: dict[str, tuple[Any, list[Any]]] = {
    "InitEx": (VixError, [c_uint32, c_uint32, *[LogFunction] * 3, _Text, _Text]),
    "Exit": (None, []),
    "GetErrorText": (c_void_p, [VixError, _Text]),
    "FreeErrorText": (None, [c_void_p]),
    "ConnectEx": (VixError, [c_void_p, c_byte, _Text, _Text, POINTER(c_void_p)]),
    "Disconnect": (VixError, [_Handle]),
    "Open": (VixError, [_Handle, _Text, c_uint32, POINTER(c_void_p)]),
    "Close": (VixError, [_Handle]),
    "GetTransportMode": (_Text, [_Handle]),
    "GetInfo": (VixError, [_Handle, POINTER(POINTER(Info))]),
    "FreeInfo": (None, [POINTER(Info)]),
    "Read": (VixError, [_Handle, _Sectors, _Sectors, c_void_p]),
    "Write": (VixError, [_Handle, _Sectors, _Sectors, c_void_p]),
}
"""Functions that every version has, by name without VixDiskLib_: result and arguments."""

OPTIONAL: dict[str, tuple[Any, list[Any]]] = {
    "Flush": (VixError, [_Handle]),
    "QueryAllocatedBlocks": (
        VixError,
        [_Handle, _Sectors, _Sectors, _Sectors, POINTER(POINTER(BlockList))],
    ),
    "FreeBlockList": (VixError, [POINTER(BlockList)]),
    "AllocateConnectParams": (POINTER(ConnectParams), []),
    "FreeConnectParams": (None, [POINTER(ConnectParams)]),
}
"""Functions that came with 6.0 (Flush) and 6.7."""


def blocks_of(found: BlockList) -> list[tuple[int, int]]:
    """Return (start, length) of each block in the library's list, in bytes."""
    first = pointer(found.blocks[0])
    blocks = (first[number] for number in range(found.numBlocks))
    return [(block.offset * SECTOR, block.length * SECTOR) for block in blocks]
