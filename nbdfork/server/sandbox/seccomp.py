"""Seccomp: which system calls this process can still make; see seccomp(2).

A program for the kernel's packet filter looks at the number of each call, and at its arguments
where they matter.  What no disk needs and attackers like is refused to all; what else is refused
follows from what the disk needs.  The kernel knows which calls always pass, and does not run the
program for them.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from nbdfork.server.sandbox import calls

_REFUSED = (
    # To look into other processes, or to change how they run.
    *("kcmp", "migrate_pages", "move_pages", "pidfd_getfd", "process_madvise"),
    *("process_vm_readv", "process_vm_writev", "ptrace"),
    # To change the machine; most of it takes capabilities, which there are none of either.
    *("_sysctl", "acct", "adjtimex", "clock_adjtime", "clock_settime", "create_module"),
    *("delete_module", "finit_module", "get_kernel_syms", "init_module", "ioperm", "iopl"),
    *("kexec_file_load", "kexec_load", "nfsservctl", "query_module", "quotactl", "quotactl_fd"),
    *("reboot", "setdomainname", "sethostname", "settimeofday", "swapoff", "swapon", "syslog"),
    *("uselib", "vhangup"),
    # To see another file system than the one that is ruled here.
    *("chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount"),
    *("open_by_handle_at", "open_tree", "open_tree_attr", "pivot_root", "setns", "umount2"),
    "unshare",
    # Large, and rich in faults.
    *("add_key", "bpf", "fanotify_init", "keyctl", "lookup_dcookie", "modify_ldt"),
    *("perf_event_open", "request_key", "sysfs", "userfaultfd", "ustat"),
)
"""The calls that always fail with EPERM."""

_ABSENT = ("clone3", "io_uring_enter", "io_uring_register", "io_uring_setup")
"""Those that fail as if the kernel did not have them, which makes libraries use others: what the
first one does cannot be seen here, and what the others do goes past all filters."""

_WITHOUT_PROGRAMS = (
    *("execve", "execveat", "fork", "vfork"),
    # To change or watch files that cannot be opened: Landlock does not look at these calls.
    *("chmod", "chown", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "lchown"),
    *("fremovexattr", "fsetxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat"),
    *("setxattr", "setxattrat", "file_setattr", "futimesat", "utime", "utimensat", "utimes"),
    *("inotify_init", "inotify_init1"),
    # To reach others by memory, semaphores and messages that have numbers or names.
    *("mq_open", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop"),
    *("semtimedop", "shmat", "shmctl", "shmget"),
)
"""What only programs may need; they may be of any kind."""

_FAMILIES = (
    socket.AF_UNIX,
    socket.AF_INET,
    socket.AF_INET6,
    socket.AF_NETLINK,
    socket.AF_VSOCK,
)
"""The sockets of those who use the network; netlink tells the C library which addresses there are.
"""

# linux/audit.h
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# linux/sched.h
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000

# asm-generic/ioctls.h: to type into, or draw on, a terminal
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# linux/fs.h: to set the flags of a file, for which it is enough that it can be read
_FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR = 0x40086602, 0x401C5820

_PERSONALITY_QUERY = 0xFFFFFFFF
_IOPRIO_WHO_PROCESS = 1
_SOCK_TYPE_MASK = 0xF

# linux/seccomp.h
_SET_MODE_FILTER = 1
_GET_ACTION_AVAIL = 2
_FLAG_SPEC_ALLOW = 4
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000

# linux/bpf_common.h
_LOAD, _AND, _JUMP, _RETURN = 0x20, 0x54, 0x05, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_BITS = 0x15, 0x35, 0x45

_FEW = 3

# struct seccomp_data
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


class Instruction(NamedTuple):
    """One of the packet filter's: *if_so* and *if_not* are how many to skip after a test."""

    code: int
    if_so: int
    if_not: int
    value: int


class Sockets(NamedTuple):
    """Which sockets can be made: those of the *network*; if not, to write to the system *log*."""

    network: bool
    log: bool


def is_available() -> bool:
    """Return whether this kernel has it, and a program for this machine can be made."""
    try:
        calls.call("seccomp", _GET_ACTION_AVAIL, 0, struct.pack("=I", _ERRNO))
    except OSError:
        return False
    return calls.MACHINE in _ARCHITECTURES


class Filter:
    """A program, as the kernel takes it."""

    def __init__(self, instructions: Iterable[Instruction]) -> None:
        code = b"".join(struct.pack("=HBBI", *one) for one in instructions)
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = struct.pack("@HP", len(code) // 8, ctypes.addressof(self._code))

    def enforce(self) -> None:
        """Apply it to this thread from now on, and all that it starts.  Needs no_new_privs.

        Raises OSError.
        """
        # Older kernels would make the whole process slower, so that code from elsewhere that it
        # compiles does not read its memory by speculation; no such code is run beside others here.
        calls.call("seccomp", _SET_MODE_FILTER, _FLAG_SPEC_ALLOW, self._program)


def refused(machine: str, *, programs: bool) -> list[str]:
    """Return the names of the calls that *machine* has, and that fail whatever is asked of them."""
    names = (*_REFUSED, *_ABSENT, *(() if programs else _WITHOUT_PROGRAMS))
    return sorted(name for name in names if name in calls.numbers_of(machine))


def program(machine: str, *, programs: bool, sockets: Sockets) -> list[Instruction]:
    """Return the program for *machine*; *programs* is whether others may be started."""
    numbers = calls.numbers_of(machine)
    bodies: dict[str, list[Instruction]] = {}
    for name in refused(machine, programs=programs):
        bodies[name] = [_fail(errno.ENOSYS if name in _ABSENT else errno.EPERM)]
    for name in ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        bodies[name] = _only_if(_is(0, 0))
    bodies["setpriority"] = _only_if(_is(0, 0) + _is(1, 0))
    bodies["ioprio_set"] = _only_if(_is(0, _IOPRIO_WHO_PROCESS) + _is(1, 0))
    bodies["prlimit64"] = [*_unless(_is(0, 0)), *_only_if(_is(2, 0) + _is(2, 0, high=True))]
    bodies["personality"] = [*_unless(_is(0, _PERSONALITY_QUERY)), *_only_if(_is(0, 0))]
    flags = () if programs else (_FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR)
    bodies["ioctl"] = _refuse_values(1, (_TIOCSTI, _TIOCLINUX, *flags))
    bodies["clone"] = _clone(programs)
    bodies["socket"] = _socket(sockets)
    start = [
        Instruction(_LOAD, 0, 0, _ARCHITECTURE_AT),
        Instruction(_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        Instruction(_RETURN, 0, 0, _KILL_PROCESS),  # its numbers mean other calls
        Instruction(_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":  # has another set of numbers, which nobody uses
        start += [Instruction(_IF_AT_LEAST, 0, 1, _X32_BIT), _fail(errno.ENOSYS)]
    return start + _search(sorted((numbers[name], body) for name, body in bodies.items()))


def _search(bodies: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Go to the body that belongs to a number, and allow a call that has none.

    When it is given a program, the kernel runs it for each number there is to learn which calls
    always pass; if all were compared one after another, that would take longer than a fork.
    """
    if len(bodies) > _FEW:
        middle = len(bodies) // 2
        lower, upper = _search(bodies[:middle]), _search(bodies[middle:])
        is_above = Instruction(_IF_AT_LEAST, 0, 1, bodies[middle][0])
        return [is_above, Instruction(_JUMP, 0, 0, len(lower)), *lower, *upper]
    found: list[Instruction] = []
    for number, body in bodies:
        found += [Instruction(_IF_EQUAL, 0, len(body), number), *body]
    return [*found, _allow()]


# -- what is asked of arguments ---------------------------------------------------------------
#
# A test goes on with what follows it, or skips to the end of its group.


def _clone(programs: bool) -> list[Instruction]:
    body = [_load(0), Instruction(_IF_BITS, 0, 1, _CLONE_NAMESPACES), _fail(errno.EPERM)]
    if not programs:
        body += [Instruction(_IF_BITS, 1, 0, _CLONE_THREAD), _fail(errno.EPERM)]
    return [*body, _allow()]


def _socket(sockets: Sockets) -> list[Instruction]:
    families = _FAMILIES if sockets.network else ()
    body = [_load(0)]
    for family in families:
        body += [Instruction(_IF_EQUAL, 0, 1, family), _allow()]
    if sockets.log:  # syslog(3) connects when there is something to say
        kind = [_load(1), Instruction(_AND, 0, 0, _SOCK_TYPE_MASK)]
        is_datagram = [*kind, Instruction(_IF_EQUAL, 0, 1, socket.SOCK_DGRAM), _allow()]
        body += [Instruction(_IF_EQUAL, 0, len(is_datagram), socket.AF_UNIX), *is_datagram]
    return [*body, _fail(errno.EAFNOSUPPORT if sockets.network else errno.EPERM)]


def _is(argument: int, value: int, *, high: bool = False) -> list[tuple[Instruction, int]]:
    """Return the test whether half of an argument, the lower one unless *high*, is *value*."""
    return [(_load(argument, high=high), value)]


def _only_if(tests: list[tuple[Instruction, int]]) -> list[Instruction]:
    """Allow the call if all *tests* hold; otherwise it fails."""
    return [*_unless(tests), _fail(errno.EPERM)]


def _unless(tests: list[tuple[Instruction, int]]) -> list[Instruction]:
    """Allow the call if all *tests* hold; otherwise go on."""
    body: list[Instruction] = []
    for place, (load, value) in enumerate(tests):
        to_the_end = 2 * (len(tests) - place) - 1
        body += [load, Instruction(_IF_EQUAL, 0, to_the_end, value)]
    return [*body, _allow()]


def _refuse_values(argument: int, values: Iterable[int]) -> list[Instruction]:
    body = [_load(argument)]
    for value in values:
        body += [Instruction(_IF_EQUAL, 0, 1, value), _fail(errno.EPERM)]
    return [*body, _allow()]


def _load(argument: int, *, high: bool = False) -> Instruction:
    """Both machines store the lower half of an argument first."""
    return Instruction(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument + 4 * high)


def _allow() -> Instruction:
    return Instruction(_RETURN, 0, 0, _ALLOW)


def _fail(error: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, _ERRNO | error)
