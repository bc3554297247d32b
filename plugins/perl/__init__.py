"""The perl plugin: scripts written for nbdkit's Perl API, unmodified.

The script runs in this process, in the system's perl: `libperl` is the library, `interpreter` makes
the calls, and `host.pl` is their other half, in Perl.  What is common to scripts in any language
is in the host plugin.
"""

from nbdfork.scripting import EmbeddedPlugin

from .interpreter import PerlInterpreter


class Perl(EmbeddedPlugin):
    """run a script written for nbdkit's Perl API"""

    name = "perl"

    def interpreter(self, path: str) -> PerlInterpreter:
        return PerlInterpreter(path, self.server.stop)
