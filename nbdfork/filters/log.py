"""The log filter: write every request of every client to a file, or tell a script of it.

All workers append to one file, each line with a single write, so that lines are never mixed up.
Nothing about the disk changes.
"""

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

from nbdfork.filters import zero_or_write
from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    Buffer,
    ConfigError,
    Export,
    ExportInfo,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    Plugin,
    SharedCounter,
    Support,
    client,
    parse,
)

log = logging.getLogger(__name__)

_TYPES = {0: "", HOLE: "hole", ZERO: "zero", HOLE | ZERO: "hole,zero"}
_LEVELS = {Support.NONE: 0, Support.EMULATE: 1, Support.NATIVE: 2}  # nbdkit's numbers


class Log(Filter):
    """log all requests to a file"""

    logfile = Parameter(parse.path, metavar="FILE", help="the log; without it nothing is logged")
    logscript = Parameter(
        str, metavar="SCRIPT", help="a shell script that is run for each line; see the manual"
    )
    logappend = Parameter(
        parse.boolean,
        default=False,
        metavar="BOOL",
        help="append to the file, do not begin it anew",
    )

    def needs(self) -> Needs:
        return Needs(anything=self.logscript is not None)

    def get_ready(self) -> None:
        self._journal: Journal | None = None
        if self.logfile is None and self.logscript is None:
            return
        try:
            self._journal = Journal(self.logfile, append=self.logappend, script=self.logscript)
        except OSError as error:
            raise ConfigError(f"log: logfile={self.logfile}: {error.strerror}") from error
        self._journal.note("Ready", thread_model=str(_thread_model(self)))

    def after_fork(self) -> None:
        if self._journal is not None:
            self._journal.note("Fork")

    def preconnect(self, read_only: bool) -> None:
        if self._journal is None:
            self.next.preconnect(read_only)
            return
        with self._journal.call("Preconnect", readonly=read_only):
            self.next.preconnect(read_only)

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        if self._journal is None:
            return self.next.list_exports(read_only)
        with self._journal.call("ListExports", readonly=read_only, tls=client.is_tls()) as result:
            exports = list(self.next.list_exports(read_only))
            names = (_quoted(export.name or "") for export in exports)
            result["exports"] = f"({' '.join(names)})"
        return exports

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        if self._journal is None:
            return next
        return LogExport(next, self._journal, export_name, read_only)


class Journal:
    """The log file, shared by all workers, and the *script* that is run for each of its lines."""

    def __init__(self, path: str | None, *, append: bool, script: str | None = None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._path = path
        self._script = script
        self._complete = True
        self.connections = SharedCounter(name="connections", bound=False)
        if not append and self.connections.is_new:  # or a program before has begun the log
            flags |= os.O_TRUNC
        self._fd = -1 if path is None else os.open(path, flags, 0o666)
        # What is asked before there is a connection is counted by kind, as nbdkit does.
        self._calls = {
            name: SharedCounter(name=name, bound=False) for name in ("Preconnect", "ListExports")
        }

    def note(self, action: str, connection: int = 0, **fields: object) -> None:
        """Log what happens at once."""
        prefix = _of_connection(connection)
        self._write(f"{prefix}{action}{_listed(fields)}")
        self._run("PRINT", action, connection, fields)

    def _run(self, kind: str, action: str, connection: int, fields: Mapping[str, object]) -> None:
        """Run the script, if there is one, with what is in the line as variables."""
        if self._script is None:
            return
        import subprocess

        variables = {name: _shown(value) for name, value in fields.items()}
        variables |= {"act": action, "type": kind}
        if connection:
            variables["connection"] = str(connection)
        environment = {**os.environ, **variables}
        subprocess.run(["/bin/sh", "-c", self._script], env=environment, check=False)

    def _write(self, text: str) -> None:
        """Append a line.  If there is no space for it, no request fails for that."""
        if self._fd < 0:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        try:
            os.write(self._fd, f"{now} {text}\n".encode(errors="surrogateescape"))
        except OSError as error:
            if self._complete:
                log.warning("logfile=%s: lines are missing: %s", self._path, error.strerror)
            self._complete = False

    @contextmanager
    def call(
        self, action: str, *, connection: int = 0, number: int = 0, **fields: object
    ) -> Iterator[dict[str, str]]:
        """Log the beginning and the end of what is done within; what is put into the dictionary is
        in the line about the end.
        """
        number = number or self._calls[action].add()
        prefix = _of_connection(connection)
        self._write(f"{prefix}{action} id={number}{_listed(fields)} ...")
        self._run("ENTER", action, connection, {"id": str(number), **fields})
        result: dict[str, str] = {}
        outcome = {"return": "-1", "error": "EIO"}  # if something other than OSError is raised
        try:
            yield result
            outcome = {"return": "0"}
        except OSError as error:
            outcome["error"] = errno.errorcode.get(error.errno or 0, "EIO")
            raise
        finally:
            result |= outcome
            self._write(f"{prefix}...{action} id={number}{_listed(result)}")
            self._run("LEAVE", action, connection, {"id": str(number), **result})


class LogExport(FilterExport):
    """*next*, with every operation logged as one of a numbered connection."""

    def __init__(self, next: Export, journal: Journal, export_name: str, read_only: bool) -> None:
        super().__init__(next)
        self._journal = journal
        self._connection = journal.connections.add()
        self._transactions = 0
        facts = {"export": _quoted(export_name), "tls": client.is_tls(), **self._facts(read_only)}
        journal.note("Connect", self._connection, **facts)

    def _facts(self, read_only: bool) -> dict[str, object]:
        below = self.next
        minimum, preferred, maximum = below.block_size()
        writable = below.can_write() and not read_only
        zero = below.can_zero()
        if not isinstance(zero, Support):
            zero = Support.NATIVE if zero else Support.EMULATE
        return {
            "size": below.get_size(),
            "minsize": minimum,
            "prefsize": preferred,
            "maxsize": maximum,
            "write": writable,
            "flush": below.can_flush(),
            "rotational": below.is_rotational(),
            "trim": writable and below.can_trim(),
            "zero": str(_LEVELS[zero] if writable else 0),
            "fua": str(_LEVELS[below.can_fua()] if writable else 0),
            "extents": below.can_extents(),
            "cache": str(_LEVELS[below.can_cache()]),
            "fast_zero": writable and zero is not Support.NONE and below.can_fast_zero(),
        }

    def _call(self, action: str, **fields: object) -> AbstractContextManager[dict[str, str]]:
        self._transactions += 1
        return self._journal.call(
            action, connection=self._connection, number=self._transactions, **fields
        )

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def pread(self, count: int, offset: int) -> Buffer:
        with self._call("Read", offset=offset, count=count):
            return self.next.pread(count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        with self._call("Write", offset=offset, count=len(data), fua=bool(flags & FUA)):
            self.next.pwrite(data, offset, flags)

    def flush(self) -> None:
        with self._call("Flush"):
            self.next.flush()

    def trim(self, count: int, offset: int, flags: int) -> None:
        with self._call("Trim", offset=offset, count=count, fua=bool(flags & FUA)):
            self.next.trim(count, offset, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        with self._call_to_zero(count, offset, flags):
            zero_or_write(self.next, count, offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        with self._call_to_zero(count, offset, flags):
            self.next.write_zeroes(count, offset, flags)

    def _call_to_zero(
        self, count: int, offset: int, flags: int
    ) -> AbstractContextManager[dict[str, str]]:
        asked = {"trim": MAY_TRIM, "fua": FUA, "fast": FAST_ZERO}
        shown = {name: bool(flags & flag) for name, flag in asked.items()}
        return self._call("Zero", offset=offset, count=count, **shown)

    def cache(self, count: int, offset: int) -> None:
        with self._call("Cache", offset=offset, count=count):
            self.next.cache(count, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        call = self._call("Extents", offset=offset, count=count, req_one=bool(flags & REQ_ONE))
        return _passed(call, lambda: self.next.extents(count, offset, flags), _TYPES)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        asked = {"offset": offset, "count": count, "req_one": bool(flags & REQ_ONE)}
        call = self._call("Extents", context=_quoted(context), **asked)
        return _passed(call, lambda: self.next.context_extents(context, count, offset, flags), {})

    def resize(self, size: int) -> None:
        with self._call("Resize", size=size):
            self.next.resize(size)

    def close(self) -> None:
        self._journal.note("Disconnect", self._connection, transactions=str(self._transactions))
        self.next.close()


def _passed(
    call: AbstractContextManager[dict[str, str]],
    ask: Callable[[], Iterable[Extent]],
    names: Mapping[int, str],
) -> Iterator[Extent]:
    """Yield extents, and log those that are wanted; *names* has what types are called."""
    words: list[str] = []
    with call as result:
        try:
            for extent in ask():
                start, length, kind = extent
                words.append(f'{start:#x} {length:#x} "{names.get(kind, kind)}"')
                yield extent
        except GeneratorExit:
            pass  # no more are wanted
        result["extents"] = f"({' '.join(words)})"


def _thread_model(plugin: Plugin) -> int:
    """Return the strictest thread model from *plugin* down."""
    model = plugin.thread_model()
    if isinstance(plugin, Filter):
        return min(model, _thread_model(plugin.next))
    return model


def _of_connection(number: int) -> str:
    return f"connection={number} " if number else ""


def _listed(fields: dict[str, object] | dict[str, str]) -> str:
    return "".join(f" {name}={_shown(value)}" for name, value in fields.items())


def _shown(value: object) -> str:
    """Write truth values as 0 and 1, numbers in hexadecimal, and text as it is."""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:#x}" if isinstance(value, int) else str(value)


def _quoted(text: str) -> str:
    """Quote what a client has sent, so that it cannot leave its quotes or its line."""
    text = re.sub(r'(["\\$`])', r"\\\1", text)
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", text) + '"'
