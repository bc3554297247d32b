"""The tcl plugin: scripts written for nbdkit's Tcl API, unmodified.

A Tcl interpreter belongs to the thread that has made it, and clients are served by several.  So it
is in a helper (see the host plugin): `host` is its program, and `host.tcl` calls the script.
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
        # -P: what lies in the current directory is no module of ours.
        return [sys.executable, "-P", "-m", f"{__name__}.host", path]
