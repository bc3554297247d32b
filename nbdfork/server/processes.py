"""The children, by way of psutil, which is imported when the first of them ends.

By then the server is ready, and its first workers do not carry around what they never use.
"""

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress


def load() -> None:
    """Import psutil now: soon it may not be readable to this user any more."""
    import psutil  # noqa: F401


def send(pid: int, signum: int) -> None:
    """Send *signum* to the child *pid*, if it has not ended."""
    import psutil

    try:
        psutil.Process(pid).send_signal(signum)
    except psutil.NoSuchProcess:
        pass


def kill(pid: int) -> None:
    """Kill the child *pid*, and those of its group of processes if it leads one."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    send(pid, signal.SIGKILL)


def kill_descendants() -> None:
    """Kill what this process has started, and what that has."""
    try:
        import psutil
    except OSError:
        return  # this process is in a sandbox where it cannot be read, nor anything started

    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            one.kill()


def reap(pids: Collection[int]) -> Iterator[tuple[int, int | None]]:
    """Reap those of the children *pids* that have ended; yield each with its exit status.

    The status is negative for a signal.  If it is not 0, the child could not end what it has
    started: the rest of its group is killed.
    """
    while (ended := _ended()) is not None:
        if ended not in pids:  # not ours to reap; but it may hide others, so ask for each
            yield from ((pid, status) for pid in pids if (status := _status(pid)) is not None)
            return
        yield ended, _status(ended)


def _ended() -> int | None:
    """Return one child that has ended, without reaping it."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _status(pid: int) -> int | None:
    """Reap the child *pid*, if it has ended, and return its status."""
    import psutil

    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is not None and (found.si_code != os.CLD_EXITED or found.si_status):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # not reaped yet: no other can have its number
    try:
        return psutil.Process(pid).wait(0)
    except (psutil.TimeoutExpired, psutil.NoSuchProcess):
        return None


def wait(pids: Collection[int], seconds: float) -> None:
    """Wait until all children *pids* have ended and are reaped, but no longer than *seconds*."""
    import psutil

    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    psutil.wait_procs(there, timeout=seconds)
