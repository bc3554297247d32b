"""The programs that a script runs by io.popen, if its Lua was built without that; see posix.lua."""

import subprocess


class Children:
    """The programs that run, by their process numbers."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, command: bytes, mode: bytes) -> tuple[int, bytes]:
        """Run a shell command; return its number, and where the script can open its pipe.

        The script reads if *mode* is r, and writes if it is w.
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
        """The script has opened the pipe, and will close it."""
        for pipe in (self._running[pid].stdout, self._running[pid].stdin):
            if pipe is not None:
                pipe.close()

    def wait(self, pid: int) -> int:
        """Return how a program has ended, as waitpid(2) says it; wait until it has."""
        status = self._running.pop(pid).wait()
        return -status if status < 0 else status << 8

    def forget(self, pid: int) -> None:
        """The script will not ask how it ends."""
        self._running.pop(pid, None)
