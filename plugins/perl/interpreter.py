"""A script in a Perl interpreter inside this process.

This file only makes the calls; `host.pl` does the work in Perl.  A request is written into the
memory of a Perl string; then the tied variable $NbdforkHost::door is read, which makes Perl carry
the request out (perltie(1)); the reply is in another string.  Per call, only the data is allocated.
"""

import ctypes
import logging
import os
import struct
import threading
from collections.abc import Callable

from nbdfork.plugin import ConfigError
from nbdfork.scripting import CallbackFailed, EmbeddedInterpreter
from nbdfork.scripting.frames import OPERATIONS

from .libperl import Libperl

log = logging.getLogger(__name__)

_HOST = os.path.join(os.path.dirname(__file__), "host.pl")

_REQUEST = struct.Struct("@LLLLQQQ")
"""operation, handle, flags, count, offset, and address and length of the payload"""

_REPLY = struct.Struct("@llqQQ")
"""error, whether there are notices, value, and address and length of the payload"""

_NOTICES = 0
"""The operation that fetches the notices."""

_LEVELS = {"debug": logging.DEBUG, "warning": logging.WARNING}

_PREAD = OPERATIONS["pread"]

_STAGE = 64 * 1024
"""The room for a request's payload at first, in bytes; it grows with the longest one."""


class PerlInterpreter(EmbeddedInterpreter):
    """A Perl interpreter for the script at *path*, which it has not loaded yet.

    Raises `ConfigError` if there is no Perl.
    """

    def __init__(self, path: str, on_shutdown: Callable[[], None]) -> None:
        self._on_shutdown = on_shutdown
        verbose = "1" if log.isEnabledFor(logging.DEBUG) else ""
        self._perl = Libperl(["-e", "0", "--", _HOST, path, verbose])
        self._lock = threading.Lock()
        self._thread = threading.local()
        died = self._perl.run("require shift @ARGV")
        if died:
            raise ConfigError(f"perl: {died.strip()}")
        self._request = self._perl.string("NbdforkHost::request")
        self._reply = self._perl.string("NbdforkHost::answer")
        self._read_door, self._door = self._perl.getter("NbdforkHost::door")
        self._free, self._garbage = self._perl.freer()
        self._make_stage(_STAGE)

    def _make_stage(self, size: int) -> None:
        self._stage = ctypes.create_string_buffer(size)
        self._stage_view = memoryview(self._stage).cast("B")
        self._stage_address = ctypes.addressof(self._stage)

    # -- calls --------------------------------------------------------------------------

    def call(
        self,
        operation: str,
        payload: bytes | memoryview = b"",
        *,
        handle: int = 0,
        flags: int = 0,
        count: int = 0,
        offset: int = 0,
    ) -> tuple[int, bytes]:
        length = len(payload)
        with self._lock:
            if length:
                if length > len(self._stage):
                    self._make_stage(length)
                self._stage_view[:length] = payload
            return self._exchange(OPERATIONS[operation], handle, flags, count, offset, length)

    def pread(self, handle: int, count: int, offset: int) -> bytes:
        with self._lock:
            return self._exchange(_PREAD, handle, 0, count, offset, 0)[1]

    def _exchange(
        self, operation: int, handle: int, flags: int, count: int, offset: int, length: int
    ) -> tuple[int, bytes]:
        """Make a request, whose payload is on the stage, and return its reply."""
        if not hasattr(self._thread, "has_entered"):
            self._perl.enter()
            self._thread.has_entered = True
        _REQUEST.pack_into(
            self._request, 0, operation, handle, flags, count, offset, self._stage_address, length
        )
        self._read_door(*self._door)
        error, has_notices, value, address, size = _REPLY.unpack_from(self._reply)
        payload = ctypes.string_at(address, size)
        self._free(*self._garbage)
        if has_notices:
            self._take_notices()
        if error:
            raise CallbackFailed(error, payload.decode(errors="backslashreplace").rstrip("\n"))
        return value, payload

    def _take_notices(self) -> None:
        """Fetch the notices that the script left during the last call, and act on them."""
        _, notices = self._exchange(_NOTICES, 0, 0, 0, 0, 0)
        for notice in notices.decode(errors="backslashreplace").split("\0")[:-1]:
            kind, _, text = notice.partition(" ")
            if kind == "shutdown":
                self._on_shutdown()
            else:
                log.log(_LEVELS[kind], "%s", text.rstrip("\n"))

    # -- life ---------------------------------------------------------------------------

    def after_fork(self) -> None:
        self.call("start")

    def close(self) -> None:
        with self._lock:
            self._perl.run_end_blocks()
            self._perl.destroy()
