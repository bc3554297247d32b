"""The server, as a plugin sees it: what it may ask and want of the process it runs in.

This is only the contract.  A plugin finds its server in `Plugin.server`; the object there knows
more than this one, which answers for a plugin that nothing serves.
"""

import errno
import math
import select
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from nbdfork.plugin.client import departure

LAST_SECONDS = 2.0
"""How long `Server.wait` still waits in a process that has been told to end: what clients have sent
is to be answered, but not for ever."""


class Stdio(NamedTuple):
    """Which of the standard streams are of use to a plugin.

    *input*: there may be something to be read from standard input.  *output* and *error*: somebody
    may see what is written there.
    """

    input: bool
    output: bool
    error: bool


class Server:
    """The server that a plugin is part of.

    All of it may be used at any time and from any thread, unless it says otherwise.
    """

    @property
    def single(self) -> bool:
        """Whether there is only one client, on standard input and output (`-s`)."""
        return False

    @property
    def name(self) -> str | None:
        """What the user calls this server (`--name`), if anything."""
        return None

    @property
    def one_process(self) -> bool:
        """Whether one process serves all clients, and runs `Plugin.unload`; known in `get_ready`.

        Any layer can be the reason, by its `thread_model` or its `one_process`.
        """
        return False

    @property
    def stdio(self) -> Stdio:
        """Which of the standard streams are of use now.

        With `-s` the client's connection is out of the way: there is no input, and output goes
        where errors go.  A server in the background has none of them.
        """
        return Stdio(input=False, output=False, error=False)

    @property
    def confine(self) -> Callable[[], None] | None:
        """What puts a new process into a sandbox, before it becomes a program that serves clients.

        It is for programs that are started before there are workers, which are in sandboxes
        themselves (`--sandbox`, `--limit`), and so is what they start: pass it on to
        `subprocess.Popen` as `preexec_fn`.  None if nothing is to be taken from them.
        """
        return None

    @property
    def ending(self) -> int:
        """A descriptor that becomes readable when this process is told to end, or ends.

        Wait for it, with `select.poll` for example, where the main thread may be busy; never read
        from it.  It is -1 until `Plugin.after_fork`.
        """
        return -1

    def wait(
        self, seconds: float | None = None, events: Mapping[int, int] | None = None
    ) -> dict[int, int]:
        """Wait for up to *seconds* (None: any time), for as long as somebody waits for the result.

        *events* are those of poll(2) that are waited for as well, by descriptor; return those that
        have come, which is nothing when the time is over.  Raises OSError with ESHUTDOWN as soon as
        the client that this thread serves has left (`client.has_left`), and `LAST_SECONDS` after it
        was noticed that this process is told to end.
        """
        waiting = _Waiting(events or {}, self.ending)
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            last = self._last_moment
            come = waiting.until(min(deadline, last))
            if waiting.has_ended and last == math.inf:
                self._last_moment = time.monotonic() + LAST_SECONDS
            elif come or time.monotonic() >= deadline:
                return come
            elif time.monotonic() >= last:
                raise OSError(errno.ESHUTDOWN, "the server is shutting down")

    _last_moment = math.inf  # for those who wait, once the end has been noticed

    def stop(self) -> None:
        """Stop the whole server, as a signal would: what clients have sent is still answered.

        While the server starts this is remembered: it ends once it is ready for clients.
        """

    def disconnect(self, *, force: bool = False) -> None:
        """End the client that this thread serves; others stay.  Without one, do nothing.

        What it has sent is still answered, unless *force* closes its connection at once.
        """


class _Waiting:
    """What `Server.wait` looks at: *events*, the client, and the descriptor that tells the end."""

    def __init__(self, events: Mapping[int, int], ending: int) -> None:
        self._events = events
        self._ending = ending
        self._departure = departure()
        self._poll = select.poll()
        for fd, wanted in events.items():
            self._poll.register(fd, wanted)
        if self._departure >= 0:
            self._poll.register(self._departure, 0)
        if ending >= 0:
            self._poll.register(ending, select.POLLIN)
        self.has_ended = False

    def until(self, moment: float) -> dict[int, int]:
        """Wait until *moment*, of the monotonic clock, for events; return those that come.

        Raises OSError if the client has left.
        """
        seconds = moment - time.monotonic()
        come = dict(self._poll.poll(None if seconds == math.inf else max(0.0, seconds) * 1000))
        if self._departure in come:
            raise OSError(errno.ESHUTDOWN, "the client has left")
        if self._ending in come:
            self.has_ended = True
            self._poll.unregister(self._ending)
        return {fd: found for fd, found in come.items() if fd in self._events}
