"""Where the last words of a crashing plugin go: to the log, by nothing but write(2).

What writes them is in `crash.c`; it cannot use Python's logging, nor syslog(3).
"""

import logging
import os
import socket

from .library import PREFIX, native

_SYSLOG = "/dev/log"
_DAEMON_ERROR = "<27>"  # RFC 5424, 6.2.1: facility 3, severity 3


def report_crashes() -> None:
    """From now on, write a line to the log if a plugin takes this process down.

    Up to now that line was for the user, on standard error; see `library.native`.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):  # standard error, or a file
            native().report_crashes(handler.stream.fileno(), PREFIX, True)
            return
    system_log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        system_log.connect(_SYSLOG)
    except OSError:  # there is none
        system_log.close()
        native().report_crashes(2, PREFIX, True)
    else:
        prefix = f"{_DAEMON_ERROR}nbdfork[{os.getpid()}]: "
        native().report_crashes(system_log.detach(), prefix, True)
