"""A program of others that a test starts, ends, and starts again."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from tests.support.harness import SECONDS, eventually, is_alive, need
from tests.support.ports import is_listening


class Daemon:
    """A program that listens on *where*: a port, a socket, or nothing that is waited for.

    It lives in *directory*, or else in a new one that is removed at the end.  What it writes is
    kept there in files, which are shown if it ends too soon.  *options* are those of Popen.

    A context manager, which starts and stops it.
    """

    def __init__(
        self,
        *command: str | Path,
        where: int | Path | None = None,
        directory: Path | None = None,
        **options: Any,
    ) -> None:
        self.command: Sequence[str | Path] = command
        self.where = where
        self.options = options
        self._is_guest = directory is not None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="nbdfork-far"))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it can be connected to."""
        program, *_ = words = [str(word) for word in self.command]
        need(program)
        if isinstance(self.where, Path):
            self.where.unlink(missing_ok=True)  # one that was killed leaves it behind
        with (self.directory / f"{Path(program).name}.log").open("ab") as log:
            settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(
                words, start_new_session=True, **(settings | self.options)
            )
        eventually(self.is_ready)

    def is_ready(self) -> bool:
        """Return whether it can be connected to; fail if it has ended."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.command}\n{self.logs()}"
        return self.where is None or is_listening(self.where)

    def logs(self) -> str:
        """Return the ends of all that it has written."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"{path}:\n{path.read_text()[-2000:]}" for path in logs)

    @property
    def is_running(self) -> bool:
        """Whether it has been started, and has not ended."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> int:
        """Ask it to end, by SIGTERM, and return its exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill it, and whatever it has started: nothing under way is finished."""
        if self.process is not None and self.process.poll() is None:
            # Some may have groups of their own: workers of nbdfork, which would end by a flush.
            os.killpg(self.process.pid, signal.SIGSTOP)
            children = psutil.Process(self.process.pid).children(recursive=True)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            # Those that it has started may die a little later, and finish a write before that.
            eventually(lambda: not any(map(is_alive, children)) and self._is_deserted())

    def _is_deserted(self) -> bool:
        return self.where is None or not is_listening(self.where)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self.is_running:
                self.stop()
        finally:
            if not self._is_guest:
                shutil.rmtree(self.directory)
