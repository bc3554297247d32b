"""What processes see of each other: their names in /proc, and their memory.

A namespace of process IDs for each worker would hide them, too, but only a supervisor that keeps
the power to make namespaces could give it to them; see the decision on sandboxes.
"""

import errno
import os
from collections.abc import Iterator

from nbdfork.server.sandbox import calls, capabilities

# linux/capability.h
_SYS_PTRACE, _SYS_ADMIN = 19, 21

# linux/sched.h and linux/mount.h
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 2, 4, 8, 1 << 14, 1 << 19

# linux/prctl.h
_PR_SET_DUMPABLE = 4

_HARMLESS = "/proc/sys/fs/binfmt_misc"


def can_hide() -> bool:
    """Return whether this process has the power to hide others, and would see them all the same."""
    needed = 1 << _SYS_ADMIN | 1 << _SYS_PTRACE
    return os.geteuid() == 0 and capabilities.permitted() & needed == needed


def hide_processes() -> None:
    """Let /proc show to this process, and to all that it starts, only what each may look into.

    For that it gets a mount namespace of its own, in which it still sees what is mounted elsewhere
    later.  Raises OSError.
    """
    if masks := [path for path in _mounted() if path.startswith("/proc/") and path != _HARMLESS]:
        raise OSError(errno.EBUSY, f"{masks[0]} is mounted over what would be seen again")
    calls.call("unshare", _CLONE_NEWNS)
    calls.call("mount", b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    calls.call("mount", b"proc", b"/proc", b"proc", flags, b"hidepid=ptraceable")


def _mounted() -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            yield line.split(" ")[4]


def close_memory() -> None:
    """Let no process of the same user look into this one; nor does it leave a core file, even where
    the system hands these to a program, which a limit does not prevent.  Raises OSError.
    """
    calls.prctl(_PR_SET_DUMPABLE, 0)
