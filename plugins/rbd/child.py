"""A look at the cluster by a process that ends afterwards.

A process that has once been connected passes on to those that it forks a librados with which they
can read and write, but never get a lock that another client has: nobody asks that client for it.
"""

import errno
import json
import os
import signal
from collections.abc import Callable


def in_child(look: Callable[[], str | None]) -> str | None:
    """Call *look* in a process of its own, and return what it returns.

    Raises the OSError that *look* raises, or one that says how the process ended instead.
    """
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.close(receiver)
            with os.fdopen(sender, "w") as pipe:
                json.dump(_outcome(look), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        ended = os.waitstatus_to_exitcode(status)
        raise OSError(errno.EIO, f"the process that looked at the cluster ended with {ended}")
    result: str | None
    result, error = json.loads(told)
    if error is not None:
        raise OSError(*error)
    return result


def _outcome(look: Callable[[], str | None]) -> tuple[str | None, tuple[int, str] | None]:
    try:
        return look(), None
    except OSError as error:
        return None, (error.errno or errno.EIO, error.strerror or str(error))
