"""A disk whose worker tries to break out: what is written to it is the name of an attempt.

The write fails as the attempt does; if that succeeds, what it found is read back.  What the plugin
says that it needs is given by the parameter `allow`.
"""

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import subprocess
import termios
from collections.abc import Callable

from nbdfork.plugin import Needs, Parameter, Plugin, parse

_PTRACE_ATTACH = 16
_PRIO_PROCESS = 0
_HARMLESS = signal.SIGURG  # ignored by all that does not ask for it
_PIDFD_GETFD = 438
_IN_OPEN = 0x20
_PR_GET_DUMPABLE = 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Escapes(Plugin):
    """a disk whose worker tries to break out"""

    allow = Parameter(
        parse.choice("anything", "nothing", "files", "network", "programs", "signals", "stop"),
        default="anything",
        metavar="WHAT",
        help="what the plugin says that it needs",
    )
    path = Parameter(parse.path, default="/nowhere", metavar="PATH", help="the file it may write")
    target = Parameter(str, default="", metavar="TARGET", help="what is to be reached")

    def needs(self) -> Needs:
        return {
            "anything": Needs(anything=True),
            "nothing": Needs(),
            "files": Needs(write=frozenset({self.path})),
            "network": Needs(network=True),
            "programs": Needs(programs=True),
            "signals": Needs(anything=True, signals=True),
            "stop": Needs(stop=True),
        }[self.allow]

    def get_ready(self) -> None:
        self._found = b""

    def get_size(self) -> int:
        return 4096

    def pread(self, count: int, offset: int) -> bytes:
        return self._found[offset : offset + count].ljust(count, b"\0")

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        name, _, argument = bytes(data).rstrip(b"\0").decode().partition(" ")
        attempt: Callable[[str], object] = getattr(self, f"try_{name}")
        self._found = str(attempt(argument or self.target)).encode()

    # -- other processes ------------------------------------------------------------------

    def try_signal(self, pid: str) -> None:
        os.kill(int(pid), _HARMLESS)

    def try_pidfd(self, pid: str) -> None:
        signal.pidfd_send_signal(os.pidfd_open(int(pid)), _HARMLESS)

    def try_trace(self, pid: str) -> None:
        check(_libc.ptrace(_PTRACE_ATTACH, int(pid), None, None))

    def try_memory(self, pid: str) -> int:
        with (
            open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
            open(f"/proc/{pid}/maps") as maps,
        ):
            memory.seek(int(maps.readline().split("-")[0], 16))
            return len(memory.read(16))

    def try_starve(self, pid: str) -> None:
        """Let another process have no descriptors any more."""
        resource.prlimit(int(pid), resource.RLIMIT_NOFILE, (3, 3))

    def try_slow(self, pid: str) -> None:
        os.setpriority(_PRIO_PROCESS, int(pid), 19)

    def try_pin(self, pid: str) -> None:
        os.sched_setaffinity(int(pid), {0})

    def try_see(self, pid: str) -> None:
        os.stat(f"/proc/{pid}")

    def try_poke(self, pid: str) -> None:
        """Write to the memory of another process, by the call for that."""
        place = writable_memory(pid)
        before = ctypes.create_string_buffer(8)
        here, there = Vector(ctypes.addressof(before), 8), Vector(place, 8)
        for call in (_libc.process_vm_readv, _libc.process_vm_writev):
            check(call(int(pid), ctypes.byref(here), 1, ctypes.byref(there), 1, 0))

    def try_edit(self, pid: str) -> None:
        """The same by a file."""
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(writable_memory(pid))
            before = memory.read(8)
            memory.seek(writable_memory(pid))
            memory.write(before)

    def try_take(self, pid: str) -> None:
        """Take a descriptor from another process."""
        os.close(check(_libc.syscall(_PIDFD_GETFD, os.pidfd_open(int(pid)), 0, 0)))

    def try_everybody(self, _: str) -> None:
        """Send a signal to all that it can reach."""
        os.kill(-1, _HARMLESS)

    def try_group(self, pid: str) -> None:
        os.killpg(os.getpgid(int(pid)), _HARMLESS)

    def try_shared_memory(self, key: str) -> None:
        """Attach what another process shares by a number."""
        check(_libc.shmget(int(key), 4096, 0o600))

    def try_scoreboard(self, _: str) -> None:
        """Make the slots of other workers writable where they are mapped."""
        for first, size in mapped("nbdfork-scoreboard", "r--s"):
            check(_libc.mprotect(ctypes.c_void_p(first), size, mmap.PROT_READ | mmap.PROT_WRITE))

    def try_scoreboard_file(self, _: str) -> None:
        """Open the file that they are in."""
        for first, size in mapped("nbdfork-scoreboard", "r--s"):
            name = f"/proc/self/map_files/{first:x}-{first + size:x}"
            os.close(os.open(name, os.O_RDWR))

    # -- files ----------------------------------------------------------------------------

    def try_read(self, path: str) -> int:
        with open(path, "rb") as file:
            return len(file.read(64))

    def try_list(self, path: str) -> int:
        return len(os.listdir(path))

    def try_write(self, path: str) -> None:
        with open(path, "ab") as file:
            file.write(b"escaped")

    def try_create(self, path: str) -> None:
        os.mkdir(path)

    def try_remove(self, path: str) -> None:
        os.unlink(path)

    def try_mode(self, path: str) -> None:
        os.chmod(path, 0o606)

    def try_own(self, path: str) -> None:
        os.chown(path, os.getuid(), os.getgid())

    def try_time(self, path: str) -> None:
        os.utime(path, (0, 0))

    def try_attribute(self, path: str) -> None:
        os.setxattr(path, "user.escaped", b"yes")

    def try_watch(self, path: str) -> None:
        fd = check(_libc.inotify_init1(0))
        try:
            check(_libc.inotify_add_watch(fd, os.fsencode(path), _IN_OPEN))
        finally:
            os.close(fd)

    def try_link(self, path: str) -> None:
        os.link(path, f"{path}-link")
        os.unlink(f"{path}-link")

    def try_rename(self, path: str) -> None:
        os.rename(path, f"{path}-renamed")
        os.rename(f"{path}-renamed", path)

    def try_truncate(self, path: str) -> None:
        os.truncate(path, os.stat(path).st_size)

    def try_mount(self, path: str) -> None:
        check(_libc.mount(b"none", os.fsencode(path), b"tmpfs", 0, None))

    def try_root(self, path: str) -> None:
        os.chroot(path)

    def try_owner(self, path: str) -> None:
        os.setresuid(65534, 65534, 65534)

    # -- out ------------------------------------------------------------------------------

    def try_connect(self, port: str) -> None:
        socket.create_connection(("127.0.0.1", int(port)), 5).close()

    def try_datagram(self, port: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"escaped", ("127.0.0.1", int(port)))

    def try_unix(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(path)

    def try_abstract(self, name: str) -> None:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(f"\0{name}")

    def try_packet(self, _: str) -> None:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()

    # -- programs, and more of itself -------------------------------------------------------

    def try_run(self, _: str) -> str:
        return subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout

    def try_gain(self, path: str) -> str:
        """Run a program that belongs to root and has the set-user-ID bit."""
        return subprocess.run([path, "-u"], capture_output=True, text=True, check=True).stdout

    def try_become(self, _: str) -> None:
        """Become a program that is in no file."""
        fd = os.memfd_create("program")
        with open("/bin/true", "rb") as program:
            os.write(fd, program.read())
        os.execve(fd, ["true"], {})

    def try_fork(self, _: str) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def try_bomb(self, _: str) -> int:
        """Fork as often as it goes, up to a number that harms nobody."""
        children: list[int] = []
        try:
            while len(children) < 200:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                children.append(pid)
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        return len(children)

    def try_memory_bomb(self, size: str) -> int:
        try:
            return len(bytearray(int(size)))
        except MemoryError:
            raise OSError("no memory") from None

    def try_descriptors(self, _: str) -> int:
        taken: list[int] = []
        try:
            while len(taken) < 500:
                taken.append(os.dup(0))
        finally:
            for fd in taken:
                os.close(fd)
        return len(taken)

    def try_spin(self, _: str) -> None:
        while True:
            pass

    def try_crash(self, _: str) -> None:
        ctypes.string_at(0)

    # -- the kernel -------------------------------------------------------------------------

    def try_call(self, number: str) -> None:
        """Make a system call with arguments that make no sense: EPERM if it is refused at all."""
        check(_libc.syscall(int(number), -1, -1, -1, -1, -1))

    def try_type(self, _: str) -> None:
        """Type into a terminal for whoever reads from it."""
        master, slave = os.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSTI, b"x")
        finally:
            os.close(master)
            os.close(slave)

    def try_namespace(self, _: str) -> None:
        check(_libc.unshare(0x10000000))

    # -- what is allowed --------------------------------------------------------------------

    def try_nothing(self, _: str) -> None:
        """Do nothing: that works."""

    def try_stop(self, _: str) -> None:
        self.server.stop()

    def try_status(self, _: str) -> str:
        with open("/proc/self/status") as status:
            return status.read()

    def try_dumpable(self, _: str) -> int:
        return check(_libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))

    def try_identity(self, _: str) -> str:
        return f"{os.getresuid()} {os.getresgid()} {os.getgroups()}"

    def try_limits(self, name: str) -> str:
        return str(resource.getrlimit(getattr(resource, f"RLIMIT_{name}")))


class Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def mapped(name: str, rights: str, pid: str = "self") -> list[tuple[int, int]]:
    """Return where a process has mapped what has *name* with *rights*, and how much of it."""
    found = []
    with open(f"/proc/{pid}/maps") as lines:
        for line in lines:
            if name in line and rights in line:
                first, end = (int(one, 16) for one in line.split()[0].split("-"))
                found.append((first, end - first))
    return found


def writable_memory(pid: str) -> int:
    return mapped("[stack]", "rw-p", pid)[0][0] + 4096


def check(result: int) -> int:
    """Return *result*; raise the error of a call into C that has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
