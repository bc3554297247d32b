"""The helper protocol: every number and struct of it, and nothing else.

nbdfork-host-plugin(3) is its specification.  All numbers are big-endian.
"""

import struct

REQUEST = struct.Struct(">IIIIQQ")
"""length of the payload that follows, operation, handle, flags, count, offset"""

REPLY = struct.Struct(">IIq")
"""length of the payload that follows, error (an errno, 0 if all is well), value"""

NOTICE = 0xFFFFFFFF
"""In place of an error: this is not the reply yet but a notice; its value says which."""

NOTICE_DEBUG = 0
NOTICE_SHUTDOWN = 1

BLOCK_SIZE = struct.Struct(">QQQ")
"""The payload of a reply to block_size: minimum, preferred, maximum, in bytes."""

EXTENT = struct.Struct(">QQI")
"""One extent in the payload of a reply to extents: offset, length, type."""

READ_ONLY = 1 << 0
"""Flag of preconnect, list_exports, default_export and open."""

IS_TLS = 1 << 1
"""Flag of list_exports, default_export and open: TLS protects the connection."""

NO_STDIO = 1 << 0
"""Flag of start: standard input and output are to be /dev/null."""

LOG_STDERR = 1 << 1
"""Flag of start: standard error goes to the server's log."""

OPERATIONS = {
    name: number
    for number, name in enumerate(
        (
            *("load", "dump_plugin", "config", "config_complete", "thread_model", "get_ready"),
            *("unload", "start", "wait", "after_fork", "cleanup"),
            *("preconnect", "list_exports", "default_export", "open", "close"),
            *("get_size", "export_description", "block_size", "is_rotational"),
            *("can_multi_conn", "can_write", "can_flush", "can_trim", "can_zero"),
            *("can_fast_zero", "can_fua", "can_cache", "can_extents"),
            *("pread", "pwrite", "flush", "trim", "zero", "cache", "extents"),
        ),
        start=1,
    )
}
"""The operations, by their names, which are those of nbdkit's callbacks."""
