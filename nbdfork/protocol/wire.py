"""Every magic, flag, number and struct of the NBD protocol, and nothing else.

Names follow the protocol document (https://github.com/NetworkBlockDevice/nbd,
doc/proto.md) without its NBD_ prefix.  All fields are big-endian and unpadded.
"""

import errno
from collections.abc import Sequence
from struct import Struct, pack

# -- handshake ------------------------------------------------------------------------

INIT_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OLDSTYLE_MAGIC = 0x0000420281861253
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9

OLDSTYLE_GREETING = Struct(">QQQHH124x")
"""init magic, oldstyle magic, export size, handshake flags (0), transmission flags."""

NEWSTYLE_GREETING = Struct(">QQH")
"""init magic, option magic, handshake flags."""

CLIENT_FLAGS = Struct(">I")

OPTION = Struct(">QII")
"""option magic, option, length of the data that follows."""

OPTION_REPLY = Struct(">QIII")
"""option reply magic, option being answered, reply type, length of the data that follows."""

EXPORT_NAME_REPLY = Struct(">QH")
"""export size, transmission flags; then the padding below unless both sides said NO_ZEROES."""

EXPORT_NAME_PADDING = bytes(124)

FLAG_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = 1 << 1

FLAG_C_FIXED_NEWSTYLE = 1 << 0
FLAG_C_NO_ZEROES = 1 << 1

OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10
OPT_EXTENDED_HEADERS = 11

REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_ERR_UNSUP = 0x80000001
REP_ERR_POLICY = 0x80000002
REP_ERR_INVALID = 0x80000003
REP_ERR_PLATFORM = 0x80000004
REP_ERR_TLS_REQD = 0x80000005
REP_ERR_UNKNOWN = 0x80000006
REP_ERR_SHUTDOWN = 0x80000007
REP_ERR_TOO_BIG = 0x80000009
REP_ERR_EXT_HEADER_REQD = 0x8000000A

INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

UINT16 = Struct(">H")
UINT32 = Struct(">I")

INFO_EXPORT_DATA = Struct(">HQH")
"""INFO_EXPORT, export size, transmission flags."""

INFO_BLOCK_SIZE_DATA = Struct(">HIII")
"""INFO_BLOCK_SIZE, minimum, preferred, maximum payload."""

MAX_STRING = 4096
"""The longest string (export name, description, context name, query), in bytes of UTF-8."""

BASE_ALLOCATION = "base:allocation"
"""The metadata context that the protocol itself defines: which parts are holes or zeroes."""

# -- transmission ---------------------------------------------------------------------

TRANSMIT_HAS_FLAGS = 1 << 0
TRANSMIT_READ_ONLY = 1 << 1
TRANSMIT_SEND_FLUSH = 1 << 2
TRANSMIT_SEND_FUA = 1 << 3
TRANSMIT_ROTATIONAL = 1 << 4
TRANSMIT_SEND_TRIM = 1 << 5
TRANSMIT_SEND_WRITE_ZEROES = 1 << 6
TRANSMIT_SEND_DF = 1 << 7
TRANSMIT_CAN_MULTI_CONN = 1 << 8
TRANSMIT_SEND_RESIZE = 1 << 9
TRANSMIT_SEND_CACHE = 1 << 10
TRANSMIT_SEND_FAST_ZERO = 1 << 11
TRANSMIT_BLOCK_STATUS_PAYLOAD = 1 << 12

REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71
EXTENDED_REPLY_MAGIC = 0x6E8A278C

REQUEST = Struct(">IHH8sQI")
"""request magic, command flags, command, cookie (opaque), offset, length."""

SIMPLE_REPLY = Struct(">II8s")
"""simple reply magic, error, cookie; a successful READ's data follows."""

EXTENDED_REQUEST = Struct(">IHH8sQQ")
"""As REQUEST, but for the length of 64 bits."""

CHUNK = Struct(">IHH8sI")
"""structured reply magic, reply flags, chunk type, cookie, length of the payload."""

EXTENDED_CHUNK = Struct(">IHH8sQQ")
"""extended reply magic, reply flags, chunk type, cookie, offset of the request, length of the
payload."""

DATA_CHUNK = Struct(">IHH8sIQ")
"""CHUNK, and the offset that begins the payload of OFFSET_DATA; the data follow."""

EXTENDED_DATA_CHUNK = Struct(">IHH8sQQQ")
"""EXTENDED_CHUNK, and the offset that begins the payload of OFFSET_DATA; the data follow."""

REPLY_FLAG_DONE = 1 << 0

REPLY_NONE = 0
REPLY_OFFSET_DATA = 1
REPLY_OFFSET_HOLE = 2
REPLY_BLOCK_STATUS = 5
REPLY_BLOCK_STATUS_EXT = 6
REPLY_ERROR = 0x8001
REPLY_ERROR_OFFSET = 0x8002

UINT64 = Struct(">Q")

HOLE = Struct(">QI")
"""offset, length: the payload of OFFSET_HOLE."""

ERROR = Struct(">IH")
"""error, length of the text that follows; in ERROR_OFFSET, the offset comes after that."""

MAX_ERROR_TEXT = 900
"""The longest text of an error chunk, in bytes.  The protocol would allow `MAX_STRING`, but
qemu drops the connection for one that is longer than 1000 bytes as a whole."""

BLOCK_STATUS_EXT = Struct(">II")
"""context id, number of the descriptors (length and flags, u64 each) that follow.  In
BLOCK_STATUS the id alone comes before the descriptors (u32 each)."""

MAX_UINT32 = 0xFFFFFFFF

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
CMD_RESIZE = 8

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3
CMD_FLAG_FAST_ZERO = 1 << 4
CMD_FLAG_PAYLOAD_LEN = 1 << 5

COMMAND_NAMES = {
    CMD_READ: "READ",
    CMD_WRITE: "WRITE",
    CMD_DISC: "DISC",
    CMD_FLUSH: "FLUSH",
    CMD_TRIM: "TRIM",
    CMD_CACHE: "CACHE",
    CMD_WRITE_ZEROES: "WRITE_ZEROES",
    CMD_BLOCK_STATUS: "BLOCK_STATUS",
    CMD_RESIZE: "RESIZE",
}

EPERM = 1
EIO = 5
ENOMEM = 12
EINVAL = 22
ENOSPC = 28
EOVERFLOW = 75
ENOTSUP = 95
ESHUTDOWN = 108

WIRE_ERRORS = {
    errno.EPERM: EPERM,
    errno.EACCES: EPERM,
    errno.EROFS: EPERM,
    errno.EIO: EIO,
    errno.ENOENT: EIO,
    errno.EPIPE: EIO,
    errno.ESTALE: EIO,
    errno.ETIMEDOUT: EIO,
    errno.ECONNABORTED: EIO,
    errno.ECONNREFUSED: EIO,
    errno.ECONNRESET: EIO,
    errno.EHOSTDOWN: EIO,
    errno.EHOSTUNREACH: EIO,
    errno.ENETDOWN: EIO,
    errno.ENETUNREACH: EIO,
    errno.ENOMEM: ENOMEM,
    errno.ENOSPC: ENOSPC,
    errno.EFBIG: ENOSPC,
    errno.EDQUOT: ENOSPC,
    errno.ESHUTDOWN: ESHUTDOWN,
}
"""System errno to the protocol's; what is not listed goes out as EINVAL.  A far end that cannot be
reached is no mistake of the client, but a failure of the disk.  ENOTSUP is not here on purpose:
only a FAST_ZERO request may be answered with it."""


def numbers(values: Sequence[int], kind: Struct) -> bytes:
    """Return *values* packed one after another, each as *kind* (`UINT32` or `UINT64`)."""
    return pack(f">{len(values)}{kind.format[-1]}", *values)
