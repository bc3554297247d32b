"""The template: the helper process that loads and configures the script, and forks for each worker.

The supervisor starts it, and it never serves a client.  Its forks inherit all that the script has
made up to `get_ready`, as workers inherit a plugin's state; so a fork that replaces one which died
begins with that state again.

A worker asks for a fork by connecting to a Unix domain socket whose name has been removed.  Only
processes that inherited the descriptor can reach it, whatever user they have become since.
"""

import errno
import logging
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

from nbdfork.plugin import ConfigError, Server
from nbdfork.scripting.channel import HelperChannel, HelperGone
from nbdfork.scripting.frames import LOG_STDERR, NO_STDIO
from nbdfork.scripting.script import CallbackFailed

log = logging.getLogger(__name__)

_BACKLOG = 128
"""How many workers may wait at once for the template to fork."""

_MAX_LINE = 4096
"""Longer lines of standard error are logged in pieces, and so never kept whole."""

_SECONDS_TO_END = 10.0


class Template:
    """The template process, started by *command*.  The script may stop *server*.

    Raises `ConfigError` if the command cannot be run.
    """

    def __init__(self, command: Sequence[str], server: Server) -> None:
        self._owner = os.getpid()
        self._server = server
        listener, self._door = _nameless_socket()
        self._log_end, log_fd = os.pipe()
        with listener:
            self._channel = self._connect()
            for fd in (listener.fileno(), log_fd):
                os.set_inheritable(fd, True)
            environment = {
                **os.environ,
                "NBDFORK_SOCKET": str(listener.fileno()),
                "NBDFORK_LOG": str(log_fd),
                "NBDFORK_VERBOSE": "1" if log.isEnabledFor(logging.DEBUG) else "0",
            }
            try:
                # Descriptors that the user opened for the script stay open.
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    close_fds=False,
                    preexec_fn=server.confine,  # there are no threads yet
                )
            except OSError as error:
                raise ConfigError(f"{command[0]}: cannot be run: {error.strerror}") from error
            except subprocess.SubprocessError as error:
                raise ConfigError(f"{command[0]}: cannot be put into a sandbox") from error
            finally:
                os.close(log_fd)

    def _connect(self) -> HelperChannel:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(f"/proc/self/fd/{self._door}")
        except OSError as error:
            stream.close()
            raise HelperGone(f"it does not listen any more: {error.strerror}") from error
        return HelperChannel(stream, self._server.stop)

    # -- in the supervisor --------------------------------------------------------------

    def call(self, operation: str, payload: bytes = b"") -> tuple[int, bytes]:
        """Carry out an operation in the template, at the start or the end of the server.

        Raises `CallbackFailed`.
        """
        if operation == "unload":
            self._channel.set_timeout(_SECONDS_TO_END)
        try:
            return self._channel.call(operation, payload)
        except HelperGone as error:
            raise CallbackFailed(errno.EIO, f"the helper died: {self._fate()}") from error

    def _fate(self) -> str:
        """Return how the template ended."""
        try:
            return _describe(self._process.wait(_SECONDS_TO_END))
        except subprocess.TimeoutExpired:
            return "it does not speak the helper protocol"

    def end(self) -> None:
        """Make the template exit, and kill forks that outlive their worker."""
        import psutil

        try:
            forks = psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            forks = []
        self._channel.close()
        try:
            # A daemon is no longer the template's parent; then there is nothing to reap.
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            log.error("the helper (process %d) does not end", self._process.pid)
        deadline = time.monotonic() + 1
        for fork in forks:
            if _ends_by(fork.pid, deadline):
                continue
            log.error("killing a helper that does not end (process %d)", fork.pid)
            with suppress(psutil.Error):
                fork.kill()

    # -- in a process that serves clients -----------------------------------------------

    def fork(self) -> tuple[HelperChannel, int]:
        """Return a channel to a new fork, and its pid.

        The fork has this process's user, groups and working directory.  Raises `HelperGone`.
        """
        if os.getpid() != self._owner:
            self._channel.close()  # or the template would not notice that the supervisor ended
        stdio = self._server.stdio
        flags = 0 if stdio.output else NO_STDIO
        if not stdio.error:
            flags |= LOG_STDERR
            Thread(target=self._copy_to_log, daemon=True).start()
        groups = " ".join(map(str, os.getgroups()))
        identity = (os.getcwd(), str(os.geteuid()), str(os.getegid()), groups)
        channel = self._connect()
        pid, _ = channel.call("start", os.fsencode("\0".join(identity)), flags=flags)
        return channel, pid

    def fate_of(self, pid: int) -> str:
        """Wait until a fork has ended, and return how it did."""
        try:
            channel = self._connect()
            status, _ = channel.call("wait", offset=pid)
            channel.close()
        except HelperGone:
            return "the template is gone, too"
        return _describe(os.waitstatus_to_exitcode(status))

    def _copy_to_log(self) -> None:
        """Put what helpers write to standard error into the log.

        All of them write into one pipe, which every worker reads, so each line is logged by some
        worker.
        """
        with open(self._log_end, encoding="utf-8", errors="backslashreplace") as lines:
            while line := lines.readline(_MAX_LINE):
                log.warning("%s", line.rstrip("\n"))


def _nameless_socket() -> tuple[socket.socket, int]:
    """Return a listening socket without a name, and a descriptor by which it can be reached.

    The descriptor works for any user that the process may become.
    """
    listener = socket.socket(socket.AF_UNIX)
    with tempfile.TemporaryDirectory(prefix="nbdfork-") as directory:
        path = os.path.join(directory, "socket")
        listener.bind(path)
        os.chmod(path, 0o777)  # nobody else gets into the directory
        listener.listen(_BACKLOG)
        return listener, os.open(path, os.O_PATH | os.O_CLOEXEC)


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit {status}"


def _ends_by(pid: int, deadline: float) -> bool:
    """Return whether a process, be it nobody's child here, ends by a time of the monotonic clock.

    It may have ended and not been reaped: that is the affair of its parent.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(process)
