"""What a plugin for disks written in another language is made of.

What is named here is public, as `nbdfork.plugin` is: the plugins for languages that come with
nbdfork use it, and one that is installed separately may.  Of nbdfork, it knows that contract only,
and of languages nothing: a disk is a set of callbacks, called in a helper, which is another
process and speaks the helper protocol, or in an interpreter inside this one.
"""

from nbdfork.scripting import frames
from nbdfork.scripting.callbacks import CallbackExport
from nbdfork.scripting.embedded import EmbeddedInterpreter, EmbeddedPlugin
from nbdfork.scripting.plugin import HelperPlugin
from nbdfork.scripting.script import CallbackFailed

__all__ = [
    "CallbackExport",
    "CallbackFailed",
    "EmbeddedInterpreter",
    "EmbeddedPlugin",
    "HelperPlugin",
    "frames",
]
