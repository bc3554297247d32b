"""The host plugin: any program that speaks the helper protocol, in whatever language.

This is the part that says how the program is run.  `frames` are the numbers of the protocol,
`connection` moves them; `template` is the process that has read the configuration and is forked,
`helper` the fork that works for the clients of one worker; `script` is what is known of any
script, and `plugin` and `export` are the methods.  The plugins for languages use all but this file;
those whose scripts run in this process have `embedded` in place of the helper.
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
            raise ConfigError(f"host: {path}: is not executable: chmod +x {path}")
        return [path]
