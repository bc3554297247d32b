"""Where messages go: standard error, the system log, a file, or nowhere.

All parts of nbdfork write to `logging`; only here is it decided what becomes of it.  Messages
of level INFO and below are for debugging: they appear with -v, on standard error (or in the
log file), never in the system log.

What is logged may have been chosen by a client, a script or a server elsewhere: control characters
in it are shown by escapes, and however often the same thing happens, the log does not grow
without bounds.
"""

import logging
import os
import sys
import syslog
import time
from io import TextIOWrapper
from typing import Any, NamedTuple

from nbdfork.server import files

_PRIORITIES = {
    logging.CRITICAL: syslog.LOG_CRIT,
    logging.ERROR: syslog.LOG_ERR,
    logging.WARNING: syslog.LOG_WARNING,
}


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROL |= {ord("\n"): "\n  ", ord("\t"): "\t"}  # a line that is indented belongs to another

BURST = 10
"""So many messages of the same kind are logged in `BURST_SECONDS`; then the others are counted."""

BURST_SECONDS = 5.0


class _Kind(NamedTuple):
    """Messages that differ in nothing but what is filled in."""

    level: int
    message: str


class _Bursts(logging.Filter):
    """Holds back messages that come again and again, and says how many they were.

    Messages for debugging are left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ends = 0.0
        self._counts: dict[_Kind, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        if now >= self._ends:
            missed = sum(max(0, count - BURST) for count in self._counts.values())
            self._counts, self._ends = {}, now + BURST_SECONDS
            if missed:
                more = "and %d more messages like those before, which were not written down"
                logging.getLogger(__name__).warning(more, missed)
        kind = _Kind(record.levelno, record.msg)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind] <= BURST


class _Plain(logging.Formatter):
    """Escapes what could forge another message, or what a log cannot take: bytes of file names that
    are not UTF-8, for example, which Python has as surrogates.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # a method of logging
        return super().formatMessage(record).translate(_CONTROL)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "  " + super().formatException(ei).translate(_CONTROL)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode(errors="backslashreplace").decode()


class _Formatter(_Plain):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"nbdfork: {record.levelname.lower()}: {text}"
        return f"nbdfork[{record.process}]: debug: {text}"


class _SyslogHandler(logging.Handler):
    """The C library's syslog(3): it finds the daemon again whenever that is restarted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(_Plain())
        syslog.openlog("nbdfork", syslog.LOG_PID, syslog.LOG_DAEMON)

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            syslog.syslog(_PRIORITIES[record.levelno], line)


class _FileHandler(logging.FileHandler):
    """A file that is the server's own: root does not follow a link that others have put there."""

    def _open(self) -> TextIOWrapper:
        fd = files.open_own(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return TextIOWrapper(open(fd, "ab"), encoding=self.encoding, errors=self.errors)


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
    handler.addFilter(_Bursts())
    if handler is not stderr and verbose and destination in ("syslog", "null"):
        stderr.addFilter(lambda record: record.levelno < logging.WARNING)
        root.addHandler(stderr)
    root.addHandler(handler)


def go_to_syslog() -> bool:
    """Return whether messages go to the system's log."""
    return any(isinstance(handler, _SyslogHandler) for handler in logging.getLogger().handlers)


def _handler(destination: str, stderr: logging.Handler) -> logging.Handler:
    if destination == "stderr":
        return stderr
    if destination == "syslog":
        return _SyslogHandler()
    if destination == "null":
        return logging.NullHandler()
    handler = _FileHandler(destination)
    handler.setFormatter(_Formatter())
    return handler


# -- debug flags (-D nbdfork.FLAG=N) ----------------------------------------------------------

DEBUG_FLAGS = {
    "backend.controlpath": (
        "nbdfork.backend.chain",
        "nbdfork.backend.exports",
        "nbdfork.backend.life",
    ),
    "backend.datapath": ("nbdfork.backend.gate",),
}
"""The server's debug flags and the loggers that they silence if set to 0."""


def set_debug_flag(flag: str, value: int) -> None:
    """Set one of the server's `DEBUG_FLAGS`; raises KeyError for any other."""
    for name in DEBUG_FLAGS[flag]:
        logging.getLogger(name).setLevel(logging.NOTSET if value else logging.INFO)
