"""The perl plugin: scripts written for nbdkit's Perl API, unmodified.

The script is run by the system's perl, in a helper (see the host plugin): `host.pl` loads it and
speaks the protocol.
"""

import os
import shutil
from collections.abc import Sequence

from nbdfork.plugin import ConfigError, Parameter

from ..host.plugin import HelperPlugin

_HOST = os.path.join(os.path.dirname(__file__), "host.pl")


class Perl(HelperPlugin):
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

    def command(self, path: str) -> Sequence[str]:
        perl = shutil.which("perl")
        if perl is None:
            raise ConfigError("perl: there is no perl in the PATH: install it (Debian: perl)")
        return [perl, _HOST, path]
