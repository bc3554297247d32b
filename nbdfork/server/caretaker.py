"""The caretaker: what is left of a program when another has taken its place.

It is a fork of the supervisor, made in the last moment.  It waits until the workers of its program
have ended with their clients, and then lets the plugins finish, as the supervisor would have: their
code and what they know is nowhere else any more.
"""

import logging
import os
import select
import signal
from collections.abc import Callable, Iterable

from nbdfork.server.inheritance import show_in_ps

log = logging.getLogger(__name__)


def leave(workers: Iterable[int], closed: Iterable[int], finish: Callable[[], None]) -> int:
    """Leave a caretaker behind, without the descriptors to be *closed*; return its pid.

    It calls *finish* when all *workers* have ended.  Raises OSError.
    """
    signals = signal.valid_signals()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    watched = [fd for pid in workers if (fd := _watch(pid)) is not None]
    try:
        pid = os.fork()
        if pid == 0:
            _become_caretaker(watched, closed, finish)
        return pid
    finally:
        for fd in watched:
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _watch(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _become_caretaker(
    watched: list[int], closed: Iterable[int], finish: Callable[[], None]
) -> None:
    """In the child: never return to the supervisor's code."""
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)  # it ends with the workers
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        show_in_ps("caretaker", "-caretaker")
        for fd in closed:
            os.close(fd)
        poll = select.poll()
        for fd in watched:
            poll.register(fd, select.POLLIN)
        while watched:
            for fd, _ in poll.poll():
                poll.unregister(fd)
                watched.remove(fd)
        finish()
    except BaseException:
        log.exception("the plugins of the program before did not finish:")
    finally:
        logging.shutdown()
        os._exit(0)
