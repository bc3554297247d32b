"""The server, as a plugin sees it: what it may ask and want of the process it runs in.

This is only the contract.  A plugin finds its server in `Plugin.server`; the object there knows
more than this one, which answers for a plugin that nothing serves.
"""

from typing import NamedTuple


class Stdio(NamedTuple):
    """Which of the standard streams a plugin may use.

    *input*: standard input is the user's and can be read.  *output*: the user sees what is
    printed.  *error*: somebody sees what is written to standard error.
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
    def stdio(self) -> Stdio:
        """Which of the standard streams may be used now.

        With `-s` the first two belong to the client; a server in the background has none.
        """
        return Stdio(input=False, output=False, error=False)

    @property
    def ending(self) -> int:
        """A descriptor that becomes readable when this process is told to end, or ends.

        Wait for it, with `select.poll` for example, where the main thread may be busy; never read
        from it.  It is -1 until `Plugin.after_fork`.
        """
        return -1

    def stop(self) -> None:
        """Stop the whole server, as a signal would: what clients have sent is still answered.

        While the server starts this is remembered: it ends once it is ready for clients.
        """

    def disconnect(self, *, force: bool = False) -> None:
        """End the client that this thread serves; others stay.  Without one, do nothing.

        What it has sent is still answered, unless *force* closes its connection at once.
        """
