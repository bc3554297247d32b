"""A server to stand in front of, which a test kills and starts again."""

import os
import socket
import subprocess
from pathlib import Path

from tests.support.harness import eventually, need


class Far:
    """A server to stand in front of, on the socket *path*; it is killed at the end."""

    def __init__(self, path: Path, *command: str | Path) -> None:
        need(Path(str(command[0])).name)
        self.path = path
        self._command = [str(word) for word in command]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, start_new_session=True
        )
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._command
        return self._accepts()

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.path)) == 0

    def kill(self) -> None:
        """Kill it, and whatever it has started."""
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()

    def __enter__(self) -> "Far":
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
