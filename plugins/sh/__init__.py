"""The sh plugin: a script, or any other program, that is run once for every request.

This is the part that finds the script and hands out the parameters.  `process` runs it, `call`
makes results and errors of what it does, `output` parses what it prints, `plugin` and `export`
are the methods; the eval plugin uses these, too.
"""

import os
import sys

from nbdfork.plugin import ConfigError, Parameter, shown

from .call import MISSING
from .plugin import ScriptPlugin
from .process import Outcome, save_program

_STDIN = "-"
_INLINE = "inline-script"


class Sh(ScriptPlugin):
    """a script that is run for every request, written for nbdkit's sh plugin"""

    script = Parameter(
        str,
        required=True,
        repeatable=True,
        magic=True,
        metavar="SCRIPT",
        help="the script, or - for standard input; what follows is for the script",
    )

    _path = ""
    _passed_on = 0  # how many of the arguments without a key the script knows

    def _locate(self, method: str) -> str | Outcome:
        return self._path or Outcome(MISSING)  # before there is a script, for --dump-plugin

    # -- finding the script -------------------------------------------------------------

    def _load(self) -> None:
        """Find the script, if it is not yet found, and give it the arguments without a key.

        The first one is the script itself.
        """
        if not self._path:
            name = self.script[0]
            self._path = self._read_inline() if name == _STDIN else _path_of(name)
            self._script.call("load")
            self._passed_on = 1
        while self._passed_on < len(self.script):
            text = self.script[self._passed_on]
            self._passed_on += 1
            key = self._script.ask("magic_config_key")
            if not key:
                raise ConfigError(
                    f"sh: {text!r} is not of the form key=value, and the script has no"
                    " magic_config_key to say what it is"
                )
            self._pass_on(key, text)

    def _read_inline(self) -> str:
        """Save the script that is on standard input, and return its path."""
        path = os.path.join(self._script.directory, _INLINE)
        save_program(path, sys.stdin.buffer.read())
        return path

    def config(self, key: str, value: str) -> None:
        if not self.script:
            raise ConfigError(f"sh: {shown(key, value)} comes before the script: name that first")
        self._load()
        self._pass_on(key, value)

    def config_complete(self) -> None:
        self._load()
        super().config_complete()


def _path_of(name: str) -> str:
    path = os.path.realpath(name)
    if not os.path.isfile(path):
        raise ConfigError(f"sh: {name}: there is no file of this name")
    if not os.access(path, os.X_OK):
        raise ConfigError(f"sh: {name}: is not executable: chmod +x {name}")
    return path
