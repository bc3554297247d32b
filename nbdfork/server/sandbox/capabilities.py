"""Capabilities: the parts of root's power, given up one by one or all; see capabilities(7)."""

import ctypes
import struct
from contextlib import suppress

from nbdfork.server.sandbox import calls

# linux/capability.h
_CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID = 0, 1, 2, 3, 4
_SETGID, _SETUID, _SETPCAP = 6, 7, 8
_VERSION_3 = 0x20080522
_MOST = 64

FILES = sum(1 << one for one in (_CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID))
"""What lets root use the files of others, as bits."""

IDENTITY = 1 << _SETGID | 1 << _SETUID
"""What lets root become another user."""

_HEADER = struct.pack("=Ii", _VERSION_3, 0)
_SETS = struct.Struct("=6I")  # twice 32 bits of: effective, permitted, inheritable
_data = ctypes.create_string_buffer(_SETS.size)  # made anew in a worker, it would take 150 us

# linux/prctl.h
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38


def permitted() -> int:
    """Return the capabilities that this process has, as bits.  Raises OSError."""
    calls.call("capget", _HEADER, _data)
    _, low, _, _, high, _ = _SETS.unpack(_data)
    return int(low | high << 32)


def keep_only(kept: int) -> None:
    """Give up all capabilities but *kept*, which are bits, for good.  Raises OSError."""
    before = permitted()
    left = before & kept
    if left != before:
        low, high = left & 0xFFFFFFFF, left >> 32
        calls.call("capset", _HEADER, _SETS.pack(low, low, 0, high, high, 0))


def bound(kept: int) -> None:
    """Let programs that root starts have none but *kept*; without the right to do so, do nothing.

    Raises OSError.
    """
    if permitted() >> _SETPCAP & 1:
        with suppress(OSError):  # of the first capability that this kernel does not have
            for capability in range(_MOST):
                if not kept >> capability & 1:
                    calls.prctl(_PR_CAPBSET_DROP, capability)


def forbid_new_ones() -> None:
    """Let no program that is started here have more rights than this process: no_new_privs."""
    calls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
