"""Which signals mean what to a server, and that none ends it silently."""

import logging
import signal

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

_DEADLY = (
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT, signal.SIGXCPU),
)
"""By default they end a process.  Those of a crash are not among them, nor those that nobody
sends."""


def meaningless() -> list[signal.Signals]:
    """Return the signals that would end this process and that nothing has a use for.

    A plugin may have a handler for one of them.
    """
    return [signum for signum in _DEADLY if signal.getsignal(signum) is signal.SIG_DFL]


def ignore_meaningless() -> None:
    """From now on, say of the signals that mean nothing that they are ignored."""
    for signum in meaningless():
        signal.signal(signum, lambda signum, frame: ignore(signum))


def ignore(signum: int) -> None:
    """Say that a signal has come, and that nothing comes of it."""
    log.warning("the signal %s means nothing here, and is ignored", signal.Signals(signum).name)
