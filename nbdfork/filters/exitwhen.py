"""The exitwhen filter: stop the server when something happens: a file, a pipe, a process, a script.

From then on no client is let in; the server ends when those that are there have left.  Each worker
looks when a client comes or goes, and an idle one every so many seconds.
"""

import errno
import logging
import os
import re
import select
import subprocess
import threading
from collections.abc import Mapping

from nbdfork.filters._slots import SharedSlots
from nbdfork.plugin import (
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    SharedBuffer,
    parse,
)

log = logging.getLogger(__name__)

_MOST = 2**20  # clients at the same time
_HAPPENED = 88  # the status of a script
_SCRIPT_SECONDS = 60.0


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) or not 0 < float(text) <= 10**6:
        raise ValueError("expected seconds, as in 60 or 0.5")
    return float(text)


class ExitWhen(Filter):
    """stop the server when something happens"""

    exit_when_file_created = Parameter(
        parse.path, repeatable=True, metavar="FILENAME", help="when this file is there"
    )
    exit_when_file_deleted = Parameter(
        parse.path, repeatable=True, metavar="FILENAME", help="when this file is not there"
    )
    exit_when_pipe_closed = Parameter(
        parse.whole(0, 2**31 - 1),
        repeatable=True,
        metavar="FD",
        help="when the other end of this pipe is closed",
    )
    exit_when_process_exits = Parameter(
        parse.whole(1, 2**31 - 1), repeatable=True, metavar="PID", help="when this process ends"
    )
    exit_when_script = Parameter(
        str, repeatable=True, metavar="SCRIPT", help=f"when this ends with status {_HAPPENED}"
    )
    exit_when_poll = Parameter(
        _seconds, default=60.0, metavar="SECONDS", help="how often to look while there is no client"
    )

    def dump_plugin(self) -> Mapping[str, str]:
        events = ("file_created", "file_deleted", "pipe_closed", "process_exits", "script")
        return {f"exitwhen_{event}": "yes" for event in events}

    def needs(self) -> Needs:
        return Needs(stop=True, programs=bool(self.exit_when_script))

    def config_complete(self) -> None:
        self._pipes = [self._kept(fd) for fd in self.exit_when_pipe_closed]
        self._processes = [self._watched(pid) for pid in self.exit_when_process_exits]

    def _kept(self, fd: int) -> int:
        try:
            return os.dup(fd)
        except OSError as error:
            text = f"exitwhen: exit-when-pipe-closed={fd}: {error.strerror}"
            raise ConfigError(text) from error

    def _watched(self, pid: int) -> int:
        """Return a descriptor of the process *pid*, which no other can take the place of."""
        try:
            return os.pidfd_open(pid)
        except OSError as error:
            text = f"exitwhen: exit-when-process-exits={pid}: {error.strerror}"
            raise ConfigError(text) from error

    def get_ready(self) -> None:
        self._clients = SharedSlots(_MOST)
        self._flag = SharedBuffer(1, name="flag")  # 1 when it has happened, for all workers

    def after_fork(self) -> None:
        threading.Thread(target=self._look_around, name="exitwhen", daemon=True).start()

    def _look_around(self) -> None:
        """Look for as long as this worker is there."""
        ending = select.poll()
        if self.server.ending >= 0:
            ending.register(self.server.ending, select.POLLIN)
        self.stop_if_over()
        while not ending.poll(self.exit_when_poll * 1000):
            self.stop_if_over()

    def has_happened(self) -> bool:
        """Return whether it has happened, now or before."""
        if self._flag[0:1] == b"\1":
            return True
        if self._looks_so():
            self._flag[0:1] = b"\1"
            return True
        return False

    def _looks_so(self) -> bool:
        return (
            any(map(os.path.lexists, self.exit_when_file_created))
            or not all(map(os.path.lexists, self.exit_when_file_deleted))
            or any(_has(fd, select.POLLHUP | select.POLLERR) for fd in self._pipes)
            or any(_has(fd, select.POLLIN) for fd in self._processes)
            or any(map(_says_so, self.exit_when_script))
        )

    def stop_if_over(self) -> None:
        """Stop the server if it has happened, and there is no client."""
        if self.has_happened() and not self._clients.held():
            self.server.stop()

    def preconnect(self, read_only: bool) -> None:
        if self.has_happened():
            self.stop_if_over()
            raise OSError(errno.ESHUTDOWN, "exitwhen: the server is about to end")
        self.next.preconnect(read_only)

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return WatchedExport(next, self, self._clients.take())

    def leave(self, number: int | None) -> None:
        """One client has left."""
        if number is not None:
            self._clients.give(number)
        self.stop_if_over()


class WatchedExport(FilterExport):
    """*next*, for a client that is to have left before the server ends."""

    def __init__(self, next: Export, filter: ExitWhen, number: int | None) -> None:
        super().__init__(next)
        self._filter = filter
        self._number = number

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def close(self) -> None:
        try:
            self.next.close()
        finally:
            self._filter.leave(self._number)


def _has(fd: int, events: int) -> bool:
    poll = select.poll()
    poll.register(fd, events & select.POLLIN)
    return any(found & events for _, found in poll.poll(0))


def _says_so(script: str) -> bool:
    """Run *script*, and return whether it says that it has happened."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            timeout=_SCRIPT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("exit-when-script=%s: %s", script, error)
        return False
    if done.returncode not in (0, _HAPPENED):
        log.error("exit-when-script=%s: it ended with status %d", script, done.returncode)
    return done.returncode == _HAPPENED
