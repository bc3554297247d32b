"""The sh plugin: a script, or any other program, that is run once for every request.

This file finds the script and passes parameters on.  `process` runs it, `call` turns the outcome
into results and errors, `output` parses what it prints, and `plugin` and `export` have the methods.
The eval plugin uses all of them, too.
"""

import os
import sys

from nbdfork.plugin import ConfigError, Parameter, shown

from .call import MISSING
from .plugin import ShellPlugin
from .process import Outcome, save_program

_STDIN = "-"
_INLINE = "inline-script"


class Sh(ShellPlugin):
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
    _passed_on = 0  # how many values of the parameter `script` have been dealt with

    def _locate(self, method: str) -> str | Outcome:
        return self._path or Outcome(MISSING)  # --dump-plugin may be given no script

    # -- finding the script -------------------------------------------------------------

    def _load(self) -> None:
        """Find the script unless it has been, and pass on arguments without a key.

        The first of them is the script itself.
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
        """Save the script that comes on standard input, and return its path."""
        if self.server.single:
            raise ConfigError(
                "sh: with -s the client is on standard input: put the script in a file"
            )
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
        raise ConfigError(f"sh: {name} is not executable: chmod +x {name}")
    return path
