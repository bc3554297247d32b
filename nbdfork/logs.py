"""Where messages go, and what they look like: standard error, the system log, a file, or nowhere.

While the server starts, what is on standard error is for whoever has typed the command.  From then
on each message says when, which process, and for which client and export: TIME nbdfork[PID] LEVEL:
CLIENT "EXPORT": TEXT.

All parts of nbdfork write to `logging`; only here is it decided what becomes of it.  Messages
of level INFO and below are for debugging: they appear with -v, on standard error (or in the
log file), never in the system log.

What is logged may have been chosen by a client, a script or a server elsewhere: control characters
in it are shown by escapes, and however often the same thing happens, the log does not grow
without bounds.
"""

import json
import logging
import os
import sys
import syslog
import time
from datetime import datetime
from io import TextIOWrapper
from typing import Any, NamedTuple

from nbdfork import console
from nbdfork.backend import client
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


class _Self:
    """What this process calls itself."""

    program = "nbdfork"
    instance = ""
    plain = False


_self = _Self()


def set_program(program: str, plain: bool) -> None:
    """Call the process *program*.  *plain*: lines on standard error begin with that and no more."""
    _self.program, _self.plain = program, plain


def set_instance(name: str | None) -> None:
    """Tell the process from others of the program by *name*, if it is given one."""
    _self.instance = f"[{name}]".translate(_CONTROL) if name is not None else ""


def prefix() -> str:
    """Return what a message on standard error begins with."""
    return f"{_self.program}{_self.instance}"


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


class _WithClient(_Plain):
    """A message that says which client of which export it is about; the system's log does the
    rest.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        whom = "" if record.name == __name__ else _client()  # nobody's, if it is about the log
        return whom + super().formatMessage(record)


class _Whole(_WithClient):
    """A message with all that is known; *timed*: with the time, too."""

    def __init__(self, timed: bool = True) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        begin = f"{_time(record.created)} " if self._timed else ""
        begin += f"{prefix()}[{record.process}]"
        return f"{begin} {_level(record)}: {super().format(record)}"


class _ForUser(_WithClient):
    """A message for whoever has started the server, on their terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{prefix()}: {_level(record)}: {super().format(record)}"


def _level(record: logging.LogRecord) -> str:
    return record.levelname.lower() if record.levelno >= logging.WARNING else "debug"


def _time(seconds: float) -> str:
    """Return a time as RFC 3339 has it, in the local zone."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def _client() -> str:
    """Return whom this thread serves, as messages begin with it; empty if it serves nobody."""
    served = client.serving()
    if served is None:
        return ""
    export = "" if served.export is None else f" {json.dumps(served.export)}"
    return f"{served.peer}{export}: ".translate(_CONTROL)


class _SyslogHandler(logging.Handler):
    """The C library's syslog(3): it finds the daemon again whenever that is restarted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(_WithClient())
        syslog.openlog(_self.program, syslog.LOG_PID, syslog.LOG_DAEMON)

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            syslog.syslog(_PRIORITIES[record.levelno], line)


class _FileHandler(logging.FileHandler):
    """A file that is the server's own: root does not follow a link that others have put there.

    It is written to by many processes, and may be renamed (logrotate(8)): each looks for the new
    one before it writes.
    """

    _keeps_old = False

    def _open(self) -> TextIOWrapper:
        fd = files.open_own(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return TextIOWrapper(open(fd, "ab"), encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._keeps_old and self._has_moved():
            self._reopen(record)
        super().emit(record)

    def look_again(self) -> None:
        """Try again to go on in a new file, even if that could not be opened before."""
        self._keeps_old = False

    def _has_moved(self) -> bool:
        assert self.stream is not None
        try:
            there = os.stat(self.baseFilename)
        except OSError:
            return True
        return not os.path.samestat(there, os.fstat(self.stream.fileno()))

    def _reopen(self, record: logging.LogRecord) -> None:
        """Go on in the new file; in the old one if that cannot be opened, which is said there."""
        try:
            new = self._open()
        except OSError as error:
            self._keeps_old = True
            text = f"the log goes on here, for the new file cannot be opened: {error}"
            warning = {"levelno": logging.WARNING, "levelname": "WARNING"}
            super().emit(
                logging.makeLogRecord(vars(record) | warning | {"msg": text, "args": None})
            )
        else:
            assert self.stream is not None
            self.stream.close()
            self.stream = new


def set_up(destination: str, verbose: bool) -> None:
    """Send messages to *destination*: "stderr", "syslog", "null" or the path of a file.

    Raises OSError if the file cannot be opened.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console.take_stderr(_note_of_lost)
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(_ForUser())
    handler = _handler(destination, stderr)
    handler.addFilter(_Bursts())
    if handler is not stderr and verbose and destination in ("syslog", "null"):
        stderr.addFilter(lambda record: record.levelno < logging.WARNING)
        root.addHandler(stderr)
    root.addHandler(handler)


def _note_of_lost(count: int) -> str:
    """Return a line for standard error, on which *count* messages are lost."""
    text = "%d messages before this one are lost: nobody has read them"
    record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, (count,), None)
    handlers = logging.getLogger().handlers
    streams = (one for one in handlers if isinstance(one, logging.StreamHandler))
    return next((one.format(record) for one in streams if one.stream is sys.stderr), text % count)


def reopen() -> None:
    """Find the log file again, if this process was told to, and say what was done."""
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, _FileHandler)]
    for handler in handlers:
        handler.look_again()
    what = "is opened again" if handlers else "goes where it went: it is in no file of ours"
    logging.getLogger(__name__).warning("SIGUSR1: the log %s", what)


def keep_in_child() -> list[int]:
    """In a process whose descriptors are about to be closed: return those that messages need."""
    syslog.closelog()  # it is opened again when it is needed
    handlers = logging.getLogger().handlers
    streams = [one.stream for one in handlers if isinstance(one, _FileHandler)]
    files_ = [stream.fileno() for stream in streams if stream is not None]
    return [*files_, *console.descriptors()]


def begin_service() -> None:
    """From now on, say all that is known of each message on standard error, too.

    A service manager that reads it there (systemd says so by JOURNAL_STREAM) adds the time itself.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _ForUser) and not _self.plain:
            handler.setFormatter(_Whole(timed="JOURNAL_STREAM" not in os.environ))


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
    handler.setFormatter(_Whole())
    return handler


# -- debug flags (-D nbdfork.FLAG=N) ----------------------------------------------------------

DEBUG_FLAGS = {
    "backend.controlpath": (
        "nbdfork.backend.chain",
        "nbdfork.backend.exports",
        "nbdfork.backend.life",
    ),
    "backend.datapath": ("nbdfork.backend.gate",),
    "tls.session": ("nbdfork.protocol.tls",),
}
"""The server's debug flags and the loggers that they silence if set to 0."""


def set_debug_flag(flag: str, value: int) -> None:
    """Set one of the server's `DEBUG_FLAGS`; raises KeyError for any other."""
    for name in DEBUG_FLAGS[flag]:
        logging.getLogger(name).setLevel(logging.NOTSET if value else logging.INFO)
