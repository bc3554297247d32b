"""Where messages go: standard error, the system log, a file, or nowhere.

All parts of nbdfork write to `logging`; only here is it decided what becomes of it.  Messages
of level INFO and below are for debugging: they appear with -v, on standard error (or in the
log file), never in the system log.
"""

import logging
import sys
import syslog

_PRIORITIES = {
    logging.CRITICAL: syslog.LOG_CRIT,
    logging.ERROR: syslog.LOG_ERR,
    logging.WARNING: syslog.LOG_WARNING,
}


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"nbdfork: {record.levelname.lower()}: {text}"
        return f"nbdfork[{record.process}]: debug: {text}"


class _SyslogHandler(logging.Handler):
    """The C library's syslog(3): it finds the daemon again whenever that is restarted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        syslog.openlog("nbdfork", syslog.LOG_PID, syslog.LOG_DAEMON)

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            syslog.syslog(_PRIORITIES[record.levelno], line)


def set_up(destination: str, verbose: bool) -> None:
    """Send messages to *destination*: "stderr", "syslog", "null" or the path of a file.

    Raises OSError if the file cannot be opened.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(_Formatter())
    handler = _handler(destination, stderr)
    if handler is not stderr and verbose and destination in ("syslog", "null"):
        stderr.addFilter(lambda record: record.levelno < logging.WARNING)
        root.addHandler(stderr)
    root.addHandler(handler)


def _handler(destination: str, stderr: logging.Handler) -> logging.Handler:
    if destination == "stderr":
        return stderr
    if destination == "syslog":
        return _SyslogHandler()
    if destination == "null":
        return logging.NullHandler()
    handler = logging.FileHandler(destination)
    handler.setFormatter(_Formatter())
    return handler


# -- debug flags (-D nbdfork.FLAG=N) ----------------------------------------------------------

DEBUG_FLAGS = {
    "backend.controlpath": "nbdfork.backend.backend",
    "backend.datapath": "nbdfork.backend.gate",
}
"""The server's debug flags and the loggers that they silence if set to 0."""


def set_debug_flag(flag: str, value: int) -> None:
    """Set one of the server's `DEBUG_FLAGS`; raises KeyError for any other."""
    logging.getLogger(DEBUG_FLAGS[flag]).setLevel(logging.NOTSET if value else logging.INFO)
