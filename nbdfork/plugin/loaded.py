"""What a loader makes of a file that is a plugin but not written in Python."""

from typing import NamedTuple

from nbdfork.plugin.plugin import Plugin


class LoadedFile(NamedTuple):
    """A plugin's class made of a file, and what the file says of itself.

    *name* and *version* are those of the plugin in the file.  *help_lines* are what `--help` shows
    besides the parameters that the class declares; *callbacks* are the names of the functions that
    the file has, for `--dump-plugin`, if they are not the methods of the class.
    """

    name: str
    plugin_class: type[Plugin]
    version: str = "unknown"
    help_lines: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = ()
