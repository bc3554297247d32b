"""Scripts that print headers or cookies: when they are run, and what comes of them.

A script is run when the first request needs it, and again when what it printed is too old
(nbdkit-curl-plugin(1), "HEADER AND COOKIE SCRIPTS").  Each client's worker runs it for itself.
"""

import errno
import logging
import os
import subprocess
import threading
import time

log = logging.getLogger(__name__)


class Script:
    """The script of the parameter *key*, a piece of shell.

    *renew*: after how many seconds what it printed is too old; 0: never.  *url* is what it finds
    in $url.  *shown*: log what it prints, secret as it may be.  Threads may share it.
    """

    def __init__(self, key: str, text: str, renew: int, url: str, shown: bool) -> None:
        self._key = key
        self._text = text
        self._renew = renew
        self._url = url
        self._shown = shown
        self._running = threading.Lock()
        self._iteration = 0
        self._expires = float("-inf")
        self._lines: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return the lines it printed, the same object until it is run again.

        Raises OSError with EIO if it fails; the next request runs it again.
        """
        with self._running:
            if time.monotonic() >= self._expires:
                self._lines = self._run()
                self._expires = time.monotonic() + (self._renew or float("inf"))
            return self._lines

    def _run(self) -> tuple[str, ...]:
        variables = {"iteration": str(self._iteration), "url": self._url}
        self._iteration += 1
        done = subprocess.run(
            ["/bin/sh", "-c", self._text],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,  # with -s, ours is the client
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            how = f"exit status {done.returncode}"
            if done.returncode < 0:
                how = f"signal {-done.returncode}"
            raise OSError(errno.EIO, f"the {self._key} failed: {how}")
        lines = tuple(line for line in os.fsdecode(done.stdout).splitlines() if line)
        if self._shown:
            for line in lines:
                log.debug("curl: %s: %s", self._key, line)
        return lines
