"""Find a plugin or a filter by its name or path, and describe it.

A name is looked up among those that come with nbdfork (packages `nbdfork.plugins` and
`nbdfork.filters`), then among the entry points of these groups that installed packages declare,
then among the C plugins of an installed nbdkit.  A path (it has a "/", or ends in ".py" or as
the files of a loader do) is a Python file with one class, or one that is the body of a class, or a
file that `loaders` know how to load.
"""

import importlib
import importlib.util
import os
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import nbdfork
from nbdfork.backend import absent, loaders
from nbdfork.backend.arguments import magic_key
from nbdfork.backend.errors import refuse_exit, starting
from nbdfork.plugin import API_VERSION, ConfigError, Filter, Parameter, Plugin, parameters_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Kind(NamedTuple):
    """What is looked for: a word for it, the package and entry point group, the base class."""

    word: str
    group: str
    base: type[Plugin]

    def fits(self, value: object) -> bool:
        """Return whether *value* is a class of this kind."""
        if not isinstance(value, type) or not issubclass(value, self.base):
            return False
        return issubclass(value, Filter) == (self.base is Filter)


PLUGIN = Kind("plugin", "nbdfork.plugins", Plugin)
FILTER = Kind("filter", "nbdfork.filters", Filter)


class Found(NamedTuple):
    """A plugin's or filter's class, its name, where it came from and its version.

    What a file that is not Python says of itself: *help_lines*, and *callbacks*, what it has.
    """

    kind: Kind
    name: str
    path: str
    version: str
    plugin_class: type[Plugin]
    help_lines: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = ()


def directory(kind: Kind) -> str:
    """Return the directory of those that come with nbdfork."""
    return next(iter(importlib.import_module(kind.group).__path__))


def _shipped(kind: Kind) -> set[str]:
    names = (module.name for module in pkgutil.iter_modules([directory(kind)]))
    return {name.replace("_", "-") for name in names if not name.startswith("_")}


def available(kind: Kind) -> list[str]:
    """Return the names of all that can be found by name, sorted."""
    return sorted(_shipped(kind) | {point.name for point in _entry_points(kind)})


def _entry_points(kind: Kind) -> "Iterable[EntryPoint]":
    from importlib.metadata import entry_points  # costs more than all else a start imports

    return entry_points(group=kind.group)


def filters_with(key: str) -> list[str]:
    """Return the names of nbdfork's filters that have the parameter *key*."""
    names = sorted(_shipped(FILTER))
    return [name for name in names if key in parameters_of(find(name, FILTER).plugin_class)]


def find(name: str, kind: Kind = PLUGIN) -> Found:
    """Find the plugin or filter *name*, a name or a path.

    Raises `ConfigError` if there is none or it cannot be loaded.
    """
    try:
        if os.sep in name or loaders.suffix_of(name) in (".py", *loaders.SHIPPED):
            found = _from_path(name, kind)
        else:
            found = _from_name(name, kind)
    except ConfigError:
        raise
    except SystemExit as error:
        refuse_exit(error, f"the {kind.word} {name!r}, while it was loaded,")
    except Exception as error:  # whatever its own code raises while it is imported
        message = f"cannot load the {kind.word} {name!r}: {_place(error)}{_told(error)}"
        if isinstance(error, ImportError) and error.name == "nbdfork.plugin":
            message += f"; this nbdfork has version {API_VERSION} of the plugin API"
        raise ConfigError(message) from error
    needed = found.plugin_class.api_version
    if not isinstance(needed, int) or needed > API_VERSION:
        raise ConfigError(
            f"the {kind.word} {name!r} needs version {needed!r} of the plugin API, and this nbdfork"
            f" has version {API_VERSION}: install a newer nbdfork"
        )
    return found


def _place(error: Exception) -> str:
    """Return where the code that was loaded failed, as "FILE:LINE: "; empty if that is unknown."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(nbdfork.__file__) + os.sep
    own = [one for one in frames if not one.filename.startswith((ours, "<"))]
    lines = [one.lineno for one in own if one.filename == own[0].filename]
    return f"{own[0].filename}:{lines[-1]}: " if own else ""


def _told(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}"


def nbdkit_directory() -> str | None:
    """Return the directory of nbdkit's own plugins; None if nbdkit is not installed."""
    libraries = [f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"]  # Debian's
    libraries += ["/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib"]
    paths = (f"{library}/nbdkit/plugins" for library in libraries)
    return next(filter(os.path.isdir, paths), None)


def _of_nbdkit(name: str) -> str | None:
    """Return the path of the C plugin *name* of nbdkit's, if that is installed."""
    path = os.path.join(nbdkit_directory() or "", f"nbdkit-{name}-plugin.so")
    return path if os.path.isfile(path) else None


def _from_name(name: str, kind: Kind) -> Found:
    if name.lower() in _shipped(kind):  # nbdkit's plugin S3 is s3
        name = name.lower()
        module = importlib.import_module(f"{kind.group}.{name.replace('-', '_')}")
        version = nbdfork.__version__
        return Found(kind, name, str(module.__file__), version, _class_in(module, kind))
    for point in _entry_points(kind):
        if point.name == name:
            plugin_class = point.load()
            path = str(sys.modules[plugin_class.__module__].__file__)
            version = point.dist.version if point.dist else "unknown"
            return Found(kind, name, path, version, plugin_class)
    if kind is PLUGIN and loaders.is_declared(loaders.suffix_of(name)):
        return _from_path(name, kind)
    if kind is PLUGIN and (installed := _of_nbdkit(name)) is not None:
        return _from_path(installed, kind)
    known = ", ".join(available(kind))
    raise ConfigError(
        f"there is no {kind.word} {name!r}. {_hint(name, kind)}The {kind.word}s are: {known}"
    )


def _hint(name: str, kind: Kind) -> str:
    """Return a sentence, and a space, on what may be meant by *name*; or nothing."""
    if kind is PLUGIN and (command := absent.command_to_serve(name)):
        return f"Did you mean: {command}? "
    if explanation := absent.explanation(kind.word, name):
        return f"{explanation} "
    if kind is PLUGIN and name in _shipped(FILTER):
        return f"There is a filter of this name: --filter={name}. "
    import difflib  # only needed after a typing mistake

    close = difflib.get_close_matches(name, available(kind), 1, cutoff=0.7)
    return f"Did you mean {close[0]!r}? " if close else ""


def _from_path(path: str, kind: Kind) -> Found:
    if kind is FILTER and path.endswith(".so"):
        raise ConfigError(
            f"the filter {path!r} is one of nbdkit's, in C: nbdfork runs nbdkit's plugins, but its"
            " filters are written in Python"
        )
    if not os.path.isfile(path):
        command = absent.command_to_serve(path) if kind is PLUGIN else ""
        hint = f". Did you mean: {command}?" if command else ""
        raise ConfigError(f"the {kind.word} {path!r} is not a file{hint}")
    if not path.endswith(".py"):
        if kind is FILTER:
            raise ConfigError(f"the filter {path!r} is not a Python file: its name must end in .py")
        loaded = loaders.load_file(path)
        return Found(kind, path=os.path.abspath(path), **loaded._asdict())
    return _from_python(path, kind)


def _from_python(path: str, kind: Kind) -> Found:
    path = os.path.abspath(path)
    name = os.path.basename(path).removesuffix(".py")
    if os.path.dirname(os.path.realpath(path)) == os.path.realpath(directory(kind)):
        return _from_name(name.replace("_", "-"), kind)  # for it imports what is beside it
    spec = importlib.util.spec_from_file_location(f"nbdfork_{kind.word}_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and others look for it
    spec.loader.exec_module(module)
    version = str(getattr(module, "__version__", "unknown"))
    return Found(kind, name, path, version, _class_in(module, kind))


def _class_in(module: ModuleType, kind: Kind) -> type[Plugin]:
    classes: list[type[Plugin]] = [
        value
        for value in vars(module).values()
        if kind.fits(value) and value.__module__ == module.__name__
    ]
    if not classes and kind is PLUGIN and any(map(_is_method, vars(module))):
        return _class_of(module)
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise ConfigError(
            f"{module.__file__} must define one {kind.base.__name__} class; it defines: {names}"
        )
    return classes[0]


def _class_of(module: ModuleType) -> type[Plugin]:
    """Return the class whose body is *module*: its functions are methods, and take `self`."""
    body: dict[str, Any] = {
        name: value for name, value in vars(module).items() if not name.startswith("__")
    }
    name = module.__name__.removeprefix("nbdfork_plugin_")
    return type(name, (Plugin,), {**body, "__doc__": module.__doc__, "__module__": name})


def description(plugin_class: type[Plugin]) -> str:
    """Return the one line that a plugin or filter says of itself."""
    text = (plugin_class.__doc__ or "").strip()  # its own, not an inherited one
    return text.splitlines()[0] if text else "(no description)"


def dump(found: Found, plugin: Plugin, filters: Iterable[Found] = ()) -> Iterator[tuple[str, str]]:
    """Yield the key and value pairs that `--dump-plugin` prints of *plugin* behind *filters*.

    Raises `ConfigError` if one of the plugin's methods fails.
    """
    with starting(found.name, "thread_model"):
        model = plugin.thread_model().name.lower()
    with starting(found.name, "one_process"):
        one_process = plugin.one_process()
    with starting(found.name, "dump_plugin"):
        own = dict(plugin.dump_plugin())
    declared: dict[str, Parameter[Any]] = {}
    for layer in (*filters, found):
        declared = parameters_of(layer.plugin_class) | declared
    yield "path", found.path
    yield "name", found.name
    yield "version", found.version
    yield "thread_model", model
    yield "one_process", "yes" if one_process else "no"
    if (magic := magic_key(found.plugin_class)) is not None:
        yield "magic_config_key", magic
    for key, parameter in declared.items():
        yield f"parameter_{key.replace('-', '_')}", parameter.metavar
    for callback in found.callbacks or _overridden(found.plugin_class):
        yield f"has_{callback}", "1"
    yield from own.items()


def _overridden(plugin_class: type[Plugin]) -> Iterator[str]:
    """Yield the names of the contract's methods that a class has of its own."""
    for method in filter(_is_method, dir(plugin_class)):
        if getattr(plugin_class, method) is not getattr(Plugin, method):
            yield method


def _is_method(name: str) -> bool:
    return not name.startswith("_") and callable(getattr(Plugin, name, None))
