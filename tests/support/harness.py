"""What the tests share: a server to talk to, and ways to wait without sleeping blindly."""

import importlib.util
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest

NBDFORK = [sys.executable, "-m", "nbdfork"]
"""The command under test, run by the interpreter that runs the tests."""

SECONDS = 15.0
"""How long anything that happens soon may take on a busy machine."""


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a client to its end; its output is in `.stdout` and `.stderr`."""
    settings = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([str(word) for word in command], check=False, **settings)


def nbdfork(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the nbdfork command to its end."""
    return run(*NBDFORK, *arguments, **options)


def output(*command: str | Path, **options: Any) -> str:
    """Run a client that must succeed, and return what it printed."""
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def need(*tools: str) -> None:
    """Skip the test on a user's machine without *tools*; in CI they are there, or it fails."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and os.environ.get("NBDFORK_CI"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def need_modules(*names: str) -> None:
    """Skip the test, or the test module, on a user's machine without these modules of Python."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("NBDFORK_CI"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)


def eventually(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return the first true value of *condition*, or fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{condition} did not become true"
        time.sleep(0.01)
    return value


def suspend(process: psutil.Process) -> None:
    """Stop *process*, and wait until it has stopped: what is sent to it next is not seen."""
    process.suspend()
    eventually(lambda: process.status() == psutil.STATUS_STOPPED)


def has_been_sent(process: psutil.Process, signum: signal.Signals) -> bool:
    """Return whether *signum* waits for *process*, which is suspended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = re.search(r"^ShdPnd:\s*(\S+)", status, re.MULTILINE)
    assert pending is not None
    return bool(int(pending[1], 16) >> (signum - 1) & 1)


def let_all_reach(directory: Path) -> None:
    """Let any user reach *directory*, one that pytest has made for the tests of this one."""
    for one in (directory, *directory.parents):
        if one.is_relative_to(tempfile.gettempdir()) and one != Path(tempfile.gettempdir()):
            one.chmod(0o755)


def title(process: psutil.Process) -> str:
    """Return what ps shows of *process*; a title is padded to the length of the old one.

    One that has ended, be it reaped or not, has no title.
    """
    try:
        return " ".join(process.cmdline()).rstrip()
    except psutil.NoSuchProcess:  # or one that is only a zombie
        return ""


def is_readable(fd: int, seconds: float = 0) -> bool:
    """Return whether something, or the end, can be read from *fd* within *seconds*.

    Unlike select(2) this works with any number that a descriptor may have.
    """
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def receive(client: socket.socket, count: int) -> bytes:
    """Return *count* bytes, or fewer if the server closes before."""
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def is_alive(process: psutil.Process) -> bool:
    """Return whether *process* runs; who has adopted a daemon may be slow to reap it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def refused(number: int, text: str | None = None) -> Iterator[None]:
    """Expect an OSError with the errno *number*, of one line; *text* is an expression for it."""
    with pytest.raises(OSError, match=text) as caught:
        yield
    assert caught.value.errno == number
    assert "\n" not in str(caught.value)


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Let new descriptors have numbers that are too large for select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + 1024), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Server:
    """A server in the foreground, on a Unix domain socket unless *listen* says otherwise.

    *within*: the words of a command that runs it, and does so in its own process.  *stderr*: where
    it writes its log, instead of what `log` reads.

    Use it as a context manager; leaving it stops the server and demands exit status 0.
    """

    def __init__(
        self,
        *arguments: str | Path,
        listen: tuple[str, ...] | None = None,
        environment: Mapping[str, str] | None = None,
        within: tuple[str | Path, ...] = (),
        stderr: int | None = None,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="nbdfork-test"))
        self.socket = self.directory / "sock"
        self._log = self.directory / "log"
        where = ("-U", str(self.socket)) if listen is None else listen
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*within, *NBDFORK, "-f", "--print-uri", *where, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log if stderr is None else stderr,
                env={**os.environ, **(environment or {})},
                text=True,
            )
        assert self.process.stdout is not None
        self.uri = self.process.stdout.readline().strip()
        assert self.uri, f"the server did not start: {self.log}"

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self.process.pid

    @property
    def port(self) -> int:
        """The TCP port."""
        match = re.search(r":(\d+)(?:[/?]|$)", self.uri)
        assert match is not None
        return int(match[1])

    @property
    def log(self) -> str:
        """What the server has written to standard error."""
        return self._log.read_text()

    def workers(self) -> list[psutil.Process]:
        """The workers, whether they have clients or not."""
        return psutil.Process(self.pid).children()

    def serving(self) -> list[psutil.Process]:
        """The workers that have a client, by what ps shows of them."""
        found = []
        for worker in self.workers():
            try:
                if "worker serving" in title(worker):
                    found.append(worker)
            except psutil.NoSuchProcess:
                pass
        return found

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send *signum* and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        """Kill the supervisor, and forget this server: another one takes its place."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        shutil.rmtree(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status = None
        try:
            status = self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()
            if kind is not None or status != 0:
                sys.stderr.write(self.log)
            shutil.rmtree(self.directory)
        if kind is None:
            assert status == 0
