"""The tcl plugin: scripts written for nbdkit's Tcl API, unmodified.

A Tcl interpreter can only be used by the thread that made it, and a worker serves its clients in
several.  So Tcl runs in a helper: `host` is its program, and `host.tcl` calls the script.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from nbdfork.plugin import ConfigError
from nbdfork.scripting import HelperPlugin


class Tcl(HelperPlugin):
    """run a script written for nbdkit's Tcl API"""

    name = "tcl"

    def command(self, path: str) -> Sequence[str]:
        if find_spec("_tkinter") is None:
            raise ConfigError(
                "tcl: this Python has no Tcl: install its module tkinter (Debian: python3-tk)"
            )
        # -P, so that Python takes no modules from the current directory.
        return [sys.executable, "-P", "-m", f"{__name__}.host", path]
