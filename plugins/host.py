"""The host plugin: the disk of any program that speaks the helper protocol.

The protocol itself is the business of `nbdfork.scripting`; here is only which command is run.
"""

import os
from collections.abc import Sequence

from nbdfork.plugin import ConfigError, Parameter
from nbdfork.scripting import HelperPlugin


class Host(HelperPlugin):
    """a program that serves a disk by the helper protocol"""

    name = "host"

    script = Parameter(
        str,
        required=True,
        repeatable=True,
        magic=True,
        metavar="PROGRAM",
        help="the program; comes first",
    )

    def command(self, path: str) -> Sequence[str]:
        if not os.access(path, os.X_OK):
            raise ConfigError(f"host: {path} is not executable: chmod +x {path}")
        return [path]
