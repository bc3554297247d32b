"""Shell scripts that print headers or cookies for requests.

A script is run for the first request, and again when its output has become too old
(nbdkit-curl-plugin(1), "HEADER AND COOKIE SCRIPTS").  Each client's worker runs it separately.
"""

import errno
import logging
import os
import subprocess
import threading
import time

log = logging.getLogger(__name__)


class HeaderScript:
    """The script of the parameter *key*, whose shell code is *text*.

    *renew*: after how many seconds its output is too old; 0 means never.  *url* is in its variable
    $url.  *shown*: log its output, although that may be secret.  It may take *timeout* seconds.
    Threads may share it.
    """

    def __init__(
        self, key: str, text: str, renew: int, url: str, shown: bool, timeout: float
    ) -> None:
        self._key = key
        self._text = text
        self._renew = renew
        self._url = url
        self._shown = shown
        self._timeout = timeout
        self._running = threading.Lock()
        self._iteration = 0
        self._expires = float("-inf")
        self._lines: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return the lines that it printed; the same object until it is run again.

        Raises OSError if it fails; then the next request runs it again.
        """
        with self._running:
            if time.monotonic() >= self._expires:
                self._lines = self._run()
                self._expires = time.monotonic() + (self._renew or float("inf"))
            return self._lines

    def _run(self) -> tuple[str, ...]:
        variables = {"iteration": str(self._iteration), "url": self._url}
        self._iteration += 1
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", self._text],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=self._timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            text = f"the {self._key} did not end within {self._timeout:g} seconds"
            raise OSError(errno.ETIMEDOUT, text) from error
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
