"""Find a plugin by its name or path, and describe it.

A name is looked up among the plugins that come with nbdfork (package `nbdfork.plugins`), then
among the entry points of group `nbdfork.plugins` that installed packages declare.  A path (it
has a "/" or ends in ".py") is a Python file with one `Plugin` class.
"""

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import nbdfork
from nbdfork.plugin.errors import ConfigError
from nbdfork.plugin.export import Plugin
from nbdfork.plugin.parameters import ParameterSet

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PACKAGE = "nbdfork.plugins"
ENTRY_POINTS = "nbdfork.plugins"


@dataclass(frozen=True)
class Found:
    """A plugin's class, its name, where it came from and its version."""

    name: str
    path: str
    version: str
    plugin_class: type[Plugin]


def plugin_directory() -> str:
    """Return the directory of the plugins that come with nbdfork."""
    return next(iter(importlib.import_module(PACKAGE).__path__))


def _entry_points() -> "Iterable[EntryPoint]":
    from importlib.metadata import entry_points  # costs more than all else a start imports

    return entry_points(group=ENTRY_POINTS)


def available() -> list[str]:
    """Return the names of all plugins that can be found by name, sorted."""
    shipped = {module.name for module in pkgutil.iter_modules([plugin_directory()])}
    third_party = {point.name for point in _entry_points()}
    return sorted(shipped | third_party)


def find(plugin: str) -> Found:
    """Find *plugin*, a name or a path.  Raises `ConfigError` if it cannot be loaded."""
    try:
        if os.sep in plugin or plugin.endswith(".py"):
            return _from_path(plugin)
        return _from_name(plugin)
    except ConfigError:
        raise
    except Exception as error:  # whatever the plugin's own code raises while it is imported
        message = f"cannot load the plugin {plugin!r}: {type(error).__name__}: {error}"
        raise ConfigError(message) from error


def _from_name(name: str) -> Found:
    if name in (module.name for module in pkgutil.iter_modules([plugin_directory()])):
        module = importlib.import_module(f"{PACKAGE}.{name}")
        return Found(name, str(module.__file__), nbdfork.__version__, _plugin_class(module))
    for point in _entry_points():
        if point.name != name:
            continue
        plugin_class = point.load()
        path = inspect.getfile(plugin_class)
        version = point.dist.version if point.dist else "unknown"
        return Found(name, path, version, plugin_class)
    known = available()
    close = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"there is no plugin {name!r}.{hint} The plugins are: {', '.join(known)}")


def _from_path(path: str) -> Found:
    if not os.path.isfile(path):
        raise ConfigError(f"the plugin {path!r} is not a file")
    name = os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(f"nbdfork_plugin_{name}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"the plugin {path!r} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    version = str(getattr(module, "__version__", "unknown"))
    return Found(name, os.path.abspath(path), version, _plugin_class(module))


def _plugin_class(module: ModuleType) -> type[Plugin]:
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Plugin)
        and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise ConfigError(f"{module.__file__} must define one Plugin class; it defines: {names}")
    return classes[0]


def help_text(found: Found) -> str:
    """Return what `--help PLUGIN` says of the plugin."""
    description = inspect.getdoc(found.plugin_class) or ""
    lines = [f"plugin: {found.name} - {description.splitlines()[0] if description else ''}"]
    lines.append(f"({found.path})")
    return "\n".join(lines + ParameterSet(found.plugin_class).help_lines())


def dump(found: Found) -> Iterator[tuple[str, str]]:
    """Yield the key and value pairs that `--dump-plugin` prints."""
    parameters = ParameterSet(found.plugin_class)
    yield "path", found.path
    yield "name", found.name
    yield "version", found.version
    if parameters.magic is not None:
        yield "magic_config_key", parameters.magic.key
    for key in parameters.by_key:
        yield f"parameter_{key.replace('-', '_')}", parameters.by_key[key].metavar
    for method, _ in inspect.getmembers(found.plugin_class, inspect.isfunction):
        overridden = getattr(found.plugin_class, method) is not getattr(Plugin, method, None)
        if overridden and hasattr(Plugin, method) and not method.startswith("_"):
            yield f"has_{method}", "1"
    yield from found.plugin_class().dump_plugin().items()
