"""The guard of a helper: it kills the helper, and what that has started, if its worker is killed.

A helper is no child of its worker, and does not see the worker's end while it runs the script.  The
guard is a shell that waits for nothing else: its input ends with the worker.
"""

import os
import signal
from contextlib import suppress

SHELL = "/bin/sh"

_PROGRAM = 'read -r done || kill -s KILL -- "-$1" || kill -s KILL "$1"'


class Guard:
    """The guard of the process *pid*, and of its group if it leads one."""

    def __init__(self, pid: int) -> None:
        """Raises OSError if it cannot be started."""
        reader, self._writer = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            self._process = os.posix_spawn(
                SHELL,
                [SHELL, "-c", _PROGRAM, "nbdfork-guard", str(pid)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reader, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, null, 2),
                ],
                setpgroup=0,  # or it would be killed with its worker
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP),
            )
        except OSError:
            os.close(self._writer)
            raise
        finally:
            os.close(reader)
            os.close(null)

    def dismiss(self) -> None:
        """The helper has ended."""
        with suppress(OSError):  # the guard has been killed
            os.write(self._writer, b"done\n")
        os.close(self._writer)
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)
