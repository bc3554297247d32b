"""libcurl's messages about its work (`-D curl.verbose=1`), as log lines without secrets."""

import logging
import re
from collections.abc import Iterable

import pycurl

from .reply import without_secrets

log = logging.getLogger(__name__)

_MARKS = {
    pycurl.INFOTYPE_TEXT: "*",
    pycurl.INFOTYPE_HEADER_IN: "<",
    pycurl.INFOTYPE_HEADER_OUT: ">",
}
"""The kinds of messages that are logged, marked as by the curl command; others are data."""

_SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie", "set-cookie")
_FTP_PASSWORD = re.compile(r"PASS .*")


class Trace:
    """Logs libcurl's messages about one handle."""

    def __init__(self) -> None:
        self.hide(())

    def hide(self, headers: Iterable[str]) -> None:
        """From now on, also hide the values of these *headers*, which the user has set."""
        names = {re.split("[:;]", header, maxsplit=1)[0].strip() for header in headers}
        every = "|".join(map(re.escape, sorted({*_SECRET_HEADERS, *names})))
        self._secret_header = re.compile(rf"({every}):.*", re.IGNORECASE)

    def __call__(self, kind: int, data: bytes) -> None:
        """Log a message (CURLOPT_DEBUGFUNCTION)."""
        mark = _MARKS.get(kind)
        if mark is None:
            return
        for line in data.decode("utf-8", "replace").splitlines():
            log.debug("curl: %s %s", mark, self._without_secrets(line))

    def _without_secrets(self, line: str) -> str:
        line = self._secret_header.sub(r"\1: (not shown)", line)
        line = _FTP_PASSWORD.sub("PASS (not shown)", line)
        return without_secrets(line)
