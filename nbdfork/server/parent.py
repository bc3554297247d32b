"""`--exit-with-parent`: end when the process that started the server does.

It is watched through a pidfd.  The kernel's own way, PR_SET_PDEATHSIG, does not do: its signal
comes as soon as the *thread* that started the server ends, see prctl(2).
"""

import os
import select
import signal
import threading

from nbdfork.server.errors import StartupError


def watch(parent: int) -> int:
    """Return a descriptor that is readable once the process *parent*, our parent, has ended.

    Raises `StartupError` if it has ended already, or cannot be watched.
    """
    if parent == 0:
        raise StartupError(
            "--exit-with-parent: the parent is in another PID namespace and cannot be watched"
        )
    try:
        fd = os.pidfd_open(parent)
    except ProcessLookupError:
        raise StartupError("--exit-with-parent: the parent has ended already") from None
    except OSError as error:
        raise StartupError(f"--exit-with-parent: pidfd_open: {error.strerror}") from error
    if os.getppid() != parent:  # it has ended, and this is another of the same number
        os.close(fd)
        raise StartupError("--exit-with-parent: the parent has ended already")
    return fd


def stop_with(parent: int, signum: signal.Signals) -> None:
    """Send *signum* to this process once *parent*, which `watch` has returned, is readable.

    This is for a process that has no loop that could look at it.
    """

    def wait() -> None:
        with select.epoll() as epoll:
            epoll.register(parent, select.EPOLLIN)
            epoll.poll()
        os.kill(os.getpid(), signum)

    threading.Thread(target=wait, name="parent", daemon=True).start()
