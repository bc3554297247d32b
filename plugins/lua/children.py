"""The programs that a script runs with io.popen, for a Lua built without it; see posix.lua."""

import subprocess


class Children:
    """The programs that are running, by pid."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, command: bytes, mode: bytes) -> tuple[int, bytes]:
        """Run a shell command; return its pid, and the path by which the script opens its pipe.

        The script reads from the pipe if *mode* is r, and writes to it if *mode* is w.
        """
        stdin, stdout = (None, subprocess.PIPE) if mode == b"r" else (subprocess.PIPE, None)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], bufsize=0, stdin=stdin, stdout=stdout
        )
        self._running[process.pid] = process
        pipe = process.stdout or process.stdin
        assert pipe is not None
        return process.pid, b"/proc/self/fd/%d" % pipe.fileno()

    def let_go(self, pid: int) -> None:
        """Close our end: the script has opened the pipe, and will close it itself."""
        for pipe in (self._running[pid].stdout, self._running[pid].stdin):
            if pipe is not None:
                pipe.close()

    def wait(self, pid: int) -> int:
        """Wait until a program has ended, and return its status as waitpid(2) does."""
        status = self._running.pop(pid).wait()
        return -status if status < 0 else status << 8

    def forget(self, pid: int) -> None:
        """Forget a program whose status the script will not ask for."""
        self._running.pop(pid, None)
