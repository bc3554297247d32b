"""The perl plugin: scripts written for nbdkit's Perl API, unmodified.

The script runs inside the server's processes, in the system's Perl, which `libperl` loads as a
library.  `interpreter` makes the calls, and `host.pl` is the side of them that is written in Perl.
"""

from nbdfork.scripting import EmbeddedPlugin

from .interpreter import PerlInterpreter


class Perl(EmbeddedPlugin):
    """run a script written for nbdkit's Perl API"""

    name = "perl"

    def interpreter(self, path: str) -> PerlInterpreter:
        return PerlInterpreter(path, self.server.stop)
