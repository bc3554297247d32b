"""The Linux calls that the process wing needs and the standard library lacks."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signum: signal.Signals, parent: int) -> bool:
    """Have the kernel send *signum* to this process when *parent* dies; see prctl(2).

    Return False if *parent* is dead already.  The setting is lost when the user changes, so
    call this afterwards.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")
    return os.getppid() == parent
