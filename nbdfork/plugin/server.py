"""The server, as a plugin sees it: what it may ask and want of the process it runs in.

This is only the contract.  A plugin finds its server in `Plugin.server`; the object there knows
more than this one, which answers for a plugin that nothing serves.
"""

from typing import NamedTuple


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
