"""The children, by system calls that need no descriptor: a supervisor that can have no more of them
must not end, and a child that has not been reaped cannot be mistaken for another process.
"""

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

_PAUSE = 0.01
"""How many seconds pass between two looks at children that are to end."""


def load() -> None:
    """Import psutil now: soon it may not be readable to this user any more."""
    import psutil  # noqa: F401


def send(pid: int, signum: int) -> None:
    """Send *signum* to the child *pid*, if it has not ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


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
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code != os.CLD_EXITED or found.si_status:
            with suppress(ProcessLookupError):  # not reaped yet, so nobody else has its number
                os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])
    except ChildProcessError:  # somebody else has reaped it
        return None


def wait(pids: Collection[int], seconds: float) -> None:
    """Wait until all children *pids* have ended and are reaped, but no longer than *seconds*."""
    deadline = time.monotonic() + seconds
    left = set(pids)
    while left := {pid for pid in left if _is_child(pid) and _status(pid) is None}:
        if time.monotonic() > deadline:
            return
        time.sleep(_PAUSE)


def _is_child(pid: int) -> bool:
    """Return whether *pid* is a child that has not been reaped."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def how_it_ended(status: int | None) -> str:
    """Return how a child has ended, for people, by what `reap` has said."""
    if status is None:
        return "is gone, and how it ended is not known"
    if status < 0:
        return f"was killed by signal {-status}"
    return f"exited with status {status} in the middle of its work"


def children() -> list[int]:
    """Return the children of this process, those that are to be reaped included."""
    load()
    import psutil

    return [child.pid for child in psutil.Process().children()]
