"""The perl plugin: scripts written for nbdkit's Perl API, unmodified.

The script runs in this process, in the system's perl: `libperl` is the library, `interpreter` makes
the calls, and `host.pl` is their other half, in Perl.  What is common to scripts in any language
is in the host plugin.
"""

from nbdfork.plugin import Parameter

from ..host.plugin import Engine, ScriptPlugin
from ..host.script import Script
from .interpreter import Interpreter


class Perl(ScriptPlugin):
    """run a script written for nbdkit's Perl API"""

    name = "perl"

    script = Parameter(
        str,
        required=True,
        repeatable=True,
        magic=True,
        metavar="SCRIPT",
        help="the script; comes first",
    )

    _interpreter: Interpreter

    def start(self, path: str) -> Engine:
        self._interpreter = Interpreter(path)
        return self._interpreter

    def get_ready(self) -> None:
        super().get_ready()
        if self.one_process():
            self._interpreter.leave_the_end_to_workers()

    def serve(self, path: str, callbacks: frozenset[str]) -> Script:
        self._interpreter.serve(one_process=self.one_process())
        return _Embedded(self._interpreter, path, callbacks)


class _Embedded(Script):
    def __init__(self, interpreter: Interpreter, path: str, callbacks: frozenset[str]) -> None:
        super().__init__(interpreter, path, callbacks)
        self._interpreter = interpreter

    def end(self) -> None:
        self._interpreter.end()
