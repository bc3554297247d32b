"""Which loader takes a file that is a plugin but not written in Python, by its suffix.

A loader is a function that is given the absolute path of the file, and returns a `LoadedFile`.
Those of nbdfork stand in a table here.  Installed packages declare theirs as entry points of the
group `nbdfork.loaders`, named for the suffix, as in `".zig" = "nbdfork_zig:load"`.
"""

import os
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from nbdfork.backend import absent
from nbdfork.plugin import ConfigError, Filter, LoadedFile, Plugin

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "nbdfork.loaders"

SHIPPED = {
    ".lua": "nbdfork.plugins.lua:Lua.load",
    ".ml": "nbdfork.plugins.ocaml:Ocaml.load",
    ".pl": "nbdfork.plugins.perl:Perl.load",
    ".rb": "nbdfork.plugins.ruby:Ruby.load",
    ".so": "nbdfork.plugins.c:load",
    ".tcl": "nbdfork.plugins.tcl:Tcl.load",
}
"""nbdfork's own, which no other package can replace."""


class _Loader(NamedTuple):
    """A loader, and a name for it in messages."""

    title: str
    get: Callable[[], Callable[[str], object]]


def suffix_of(path: str) -> str:
    """Return the end of a file's name, with its dot; empty if there is none."""
    return os.path.splitext(path)[1]


def is_declared(suffix: str) -> bool:
    """Return whether there is a loader for files that end in *suffix*."""
    return suffix in SHIPPED or any(point.name == suffix for point in _entry_points())


def load_file(path: str) -> LoadedFile:
    """Have the plugin in the file *path* loaded.  Raises `ConfigError`."""
    suffix = suffix_of(path)
    loader = _loader_of(suffix, path)
    try:
        loaded = loader.get()(os.path.abspath(path))
    except ConfigError:
        raise
    except Exception as error:  # whatever a package raises, or the import of it
        raise ConfigError(
            f"{loader.title} cannot load the plugin {path!r}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, LoadedFile):
        raise ConfigError(f"{loader.title} returned {loaded!r} for {path!r}; return a LoadedFile")
    made: object = loaded.plugin_class  # whatever it was declared to be
    if not isinstance(made, type) or not issubclass(made, Plugin) or issubclass(made, Filter):
        raise ConfigError(f"{loader.title} made {made!r} of {path!r}, which is no class of Plugin")
    return loaded


def _loader_of(suffix: str, path: str) -> _Loader:
    if suffix in SHIPPED:
        name = SHIPPED[suffix]
        return _Loader(f"the loader for {suffix} files", lambda: pkgutil.resolve_name(name))
    points = [point for point in _entry_points() if suffix and point.name == suffix]
    if not points:
        known = ", ".join(sorted({".py", *SHIPPED, *(point.name for point in _entry_points())}))
        command = absent.command_to_serve(path)
        raise ConfigError(
            f"nothing loads the plugin {path!r}: its name must end in one of {known}"
            + (f". Did you mean: {command}?" if command else "")
        )
    titles = [_package(point) for point in points]
    if len(points) > 1:
        raise ConfigError(
            f"{path!r}: each of {' and '.join(titles)} declares a loader for {suffix} files;"
            " uninstall all but one"
        )
    return _Loader(f"the loader for {suffix} files, of {titles[0]},", points[0].load)


def _package(point: "EntryPoint") -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _entry_points() -> "list[EntryPoint]":
    from importlib.metadata import entry_points  # costs more than all else a start imports

    return list(entry_points(group=GROUP))
