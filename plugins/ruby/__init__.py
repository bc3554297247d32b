"""The ruby plugin: scripts written for nbdkit's Ruby API, unmodified.

The helper is the system's Ruby with the program `host.rb`, which loads the script.
"""

import os
import shutil
from collections.abc import Sequence

from nbdfork.plugin import ConfigError
from nbdfork.scripting import HelperPlugin

_HOST = os.path.join(os.path.dirname(__file__), "host.rb")


class Ruby(HelperPlugin):
    """run a script written for nbdkit's Ruby API"""

    name = "ruby"

    def command(self, path: str) -> Sequence[str]:
        ruby = shutil.which("ruby")
        if ruby is None:
            raise ConfigError("ruby: there is no ruby in the PATH: install it (Debian: ruby)")
        return [ruby, _HOST, path]
