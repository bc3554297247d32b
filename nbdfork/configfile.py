"""The config file: TOML -> settings of the server, and tables of exports.

Here the form of the file is checked, and each setting knows where it stands.  Which options the
server has is left to `cli`, which parameters plugins have to `disks`.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from glob import glob
from typing import Any, NamedTuple

from nbdfork import tomlplaces
from nbdfork.plugin import ConfigError
from nbdfork.tomlplaces import Path

MOST_INCLUDED = 100_000
"""How many files may be included.  That is no limit for people, but a pattern can go astray."""


class Place(NamedTuple):
    """Where something stands: the *file*, the *line* in it, and the *key*, in words."""

    file: str
    line: int
    key: str

    def error(self, message: str) -> ConfigError:
        """Return the error that there is something wrong at this place."""
        return ConfigError(f"{self}: {message}")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}" if self.key else f"{self.file}:{self.line}"


class Setting(NamedTuple):
    """A key with its value, as a text such as a command line has."""

    place: Place
    key: str
    text: str


class LayerTable(NamedTuple):
    """A plugin or a filter, by its *name*, with *settings* that are for it alone."""

    place: Place
    name: str
    settings: tuple[Setting, ...] = ()


class ExportTable(NamedTuple):
    """An export.  *settings* are for whichever layer declares their keys.

    *allow* and *deny* are rules; *keys* are all that it has.  The others are as in `assembly.Disk`,
    which they are for.
    """

    place: Place
    plugin: LayerTable
    filters: tuple[LayerTable, ...] = ()
    settings: tuple[Setting, ...] = ()
    name: str | None = None
    is_default: bool = False
    description: str = ""
    read_only: bool = False
    with_tls: bool = False
    max_clients: int = 0
    threads: int | None = None
    allow: tuple[Setting, ...] = ()
    deny: tuple[Setting, ...] = ()
    keys: frozenset[str] = frozenset()


class ConfigFile(NamedTuple):
    """What a config file says, with those that it includes."""

    server: tuple[Setting, ...]
    exports: tuple[ExportTable, ...]


def read(path: str) -> ConfigFile:
    """Read the file at *path*.  Raises `ConfigError` with the file, the line and the key."""
    document = _Document(path)
    document.demand_known((), ("server", "export", "include"))
    server = tuple(document.settings(("server",)))
    exports = [*document.exports()]
    for included in document.included():
        included.demand_known((), ("export",))
        exports += included.exports()
    if not exports:
        raise document.place(()).error("there is no [[export]]: what is to be served?")
    _demand_sense(exports)
    return ConfigFile(server, tuple(exports))


def _demand_sense(exports: list[ExportTable]) -> None:
    """Raise `ConfigError` for exports that cannot be told apart."""
    places: dict[str, Place] = {}
    default: Place | None = None
    for export in exports:
        if export.name is None and len(exports) > 1:
            raise export.place.error("an export needs a name= where there are several")
        if export.name is not None:
            other = places.setdefault(export.name, export.place)
            if other is not export.place:
                raise export.place.error(f"there is an export of this name at {other}")
        if export.is_default:
            if default is not None:
                raise export.place.error(f"the default export is that at {default}")
            default = export.place


def near(word: str, known: Iterable[str]) -> str:
    """Return a question that names one of *known* that is like *word*; or nothing."""
    import difflib  # only needed after a typing mistake

    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


class _Document:
    """One file, and the means to look into it."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                text = file.read().decode()
            self._top: dict[str, Any] = tomllib.loads(text)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            before = error.object[: error.start].count(b"\n") + 1
            raise Place(path, before, "").error("this is not UTF-8, which TOML is") from error
        except tomllib.TOMLDecodeError as error:
            raise _syntax_error(path, text, str(error)) from error
        except RecursionError as error:
            raise ConfigError(f"{path}: its values are nested too deeply") from error
        self._lines = tomlplaces.lines(text.replace("\r\n", "\n"))

    def place(self, path: Path) -> Place:
        """Return where the value at *path* stands."""
        keys = [str(key) for key in path if isinstance(key, str)]
        return Place(self.path, self._lines.get(path, 1), ".".join(keys))

    def error(self, path: Path, message: str) -> ConfigError:
        return self.place(path).error(message)

    def _get(self, path: Path) -> Any:
        value: Any = self._top
        for key in path:
            value = value.get(key) if isinstance(key, str) else value[key]
            if value is None:
                return None
        return value

    def table(self, path: Path) -> Mapping[str, Any]:
        """Return the table at *path*, which may be missing."""
        value = self._get(path)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(path, f"this is {_kind(value)}; a table is expected")
        return value

    def demand_known(self, path: Path, known: tuple[str, ...]) -> None:
        """Raise `ConfigError` if the table at *path* has a key that is not *known*."""
        for key in self.table(path):
            if key not in known:
                raise self.error(
                    (*path, key),
                    f"there is no such key{near(key, known)} (the keys are: {', '.join(known)})",
                )

    def included(self) -> "Iterator[_Document]":
        """Yield the files that this one includes, those of one pattern sorted by their names."""
        for path, pattern in self._elements(("include",), str):
            where = os.path.join(os.path.dirname(self.path), pattern)
            found = sorted(glob(where))
            if len(found) > MOST_INCLUDED:
                raise self.error(path, f"{where}: {len(found)} files are too many")
            if not found and not re.search(r"[*?\[]", pattern):
                raise self.error(path, f"{where}: there is no such file")
            yield from map(_Document, found)

    # -- settings -----------------------------------------------------------------------

    def settings(self, path: Path, without: Iterable[str] = ()) -> Iterator[Setting]:
        """Yield what is in the table at *path*, of an array one for each of its elements."""
        for key, value in self.table(path).items():
            if key in without:
                continue
            here = (*path, key)
            values = enumerate(value) if isinstance(value, list) else [(None, value)]
            for index, one in values:
                there = here if index is None else (*here, index)
                yield Setting(self.place(there), key, self._text(there, one))

    def _text(self, path: Path, value: Any) -> str:
        """Return *value* as one would type it; that of a file, if it names one."""
        if isinstance(value, dict) and value.keys() == {"file"}:
            return self._secret((*path, "file"), value["file"])
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int | float):
            text = str(value)
            if "\0" in text:
                raise self.error(path, "there is a null byte in it")
            return text
        raise self.error(
            path,
            f"this is {_kind(value)}; a text, a number, a truth value, an array of these, or"
            ' { file = "PATH" } is expected',
        )

    def _secret(self, path: Path, name: object) -> str:
        """Return what the file *name* has in it, without the end of its last line."""
        if not isinstance(name, str):
            raise self.error(path, "the path of a file is expected")
        where = os.path.join(os.path.dirname(self.path), name)
        try:
            with open(where, encoding="utf-8", errors="surrogateescape") as file:
                return file.read().removesuffix("\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise self.error(path, f"{where}: {reason}") from error

    def _elements(self, path: Path, kind: type | tuple[type, ...]) -> Iterator[tuple[Path, Any]]:
        """Yield what is in the array at *path*, or the one value that is there without an array."""
        value = self._get(path)
        if value is None:
            return
        values = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, one in values:
            there = path if index is None else (*path, index)
            if not isinstance(one, kind):
                raise self.error(there, f"this is {_kind(one)}; {_EXPECTED[kind]} is expected")
            yield there, one

    # -- exports ------------------------------------------------------------------------

    def exports(self) -> Iterator[ExportTable]:
        """Yield the exports of this file."""
        for path, _ in self._elements(("export",), dict):
            yield self._export(path)

    def _export(self, path: Path) -> ExportTable:
        name = self._get((*path, "name"))
        values = {
            field: self._checked((*path, key), check)
            for key, (field, check) in _EXPORT_KEYS.items()
            if self._get((*path, key)) is not None
        }
        plugin = self._get((*path, "plugin"))
        place = self.place(path)._replace(key=f"export {name!r}" if name is not None else "export")
        if plugin is None:
            known = {*_EXPORT_KEYS, *_OTHER_KEYS}
            wrong = [key for key in self.table(path) if near(key, ["plugin"])]
            hint = f"; did you mean it by {wrong[0]}?" if wrong and wrong[0] not in known else ""
            raise place.error(f"the key plugin is missing, which says what is served{hint}")
        return ExportTable(
            place,
            LayerTable(
                self.place((*path, "plugin")),
                self._checked((*path, "plugin"), _name),
                tuple(self.settings((*path, "parameters"))),
            ),
            tuple(self._filters((*path, "filters"))),
            tuple(self.settings(path, without={*_EXPORT_KEYS, *_OTHER_KEYS})),
            allow=tuple(self._rules(path, "allow")),
            deny=tuple(self._rules(path, "deny")),
            keys=frozenset(self.table(path)),
            **values,
        )

    def _rules(self, path: Path, key: str) -> Iterator[Setting]:
        for there, text in self._elements((*path, key), str):
            yield Setting(self.place(there), key, text)

    def _filters(self, path: Path) -> Iterator[LayerTable]:
        for there, one in self._elements(path, (str, dict)):
            if isinstance(one, str):
                yield LayerTable(self.place(there), one)
                continue
            if "filter" not in one:
                raise self.error(there, "the key filter is missing, which says which one")
            name = self._checked((*there, "filter"), _name)
            settings = tuple(self.settings(there, without={"filter"}))
            yield LayerTable(self.place(there), name, settings)

    def _checked(self, path: Path, check: Callable[[Any], Any]) -> Any:
        try:
            return check(self._get(path))
        except ValueError as error:
            raise self.error(path, str(error)) from None


def _syntax_error(path: str, text: str, message: str) -> ConfigError:
    match = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", message)
    if match is None:  # "at end of document"
        return Place(path, text.count("\n") + 1, "").error(f"not TOML: {message}")
    line = int(match[2])
    key = re.match(r"\s*([\w.-]+)\s*=", text.split("\n")[line - 1])
    return Place(path, line, key[1] if key else "").error(f"not TOML: {match[1]}")


def _kind(value: object) -> str:
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "a time")


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a truth value"),
    (str, "a text"),
    (int, "a number"),
    (float, "a number"),
    (list, "an array"),
    (dict, "a table"),
)

_EXPECTED: dict[type | tuple[type, ...], str] = {
    str: "a text",
    dict: "a table",
    (str, dict): "the name of a filter, or a table with the key filter",
}


# -- the keys of an export --------------------------------------------------------------------


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"this is {_kind(value)}; a name or a path is expected")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"this is {_kind(value)}; a text is expected")
    if len(value.encode()) > _MOST_STRING:
        raise ValueError(f"it is longer than {_MOST_STRING} bytes, which is the protocol's limit")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"this is {_kind(value)}; true or false is expected")
    return value


def _from(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most} is expected")
        return value

    return check


_MOST_STRING = 4096

_EXPORT_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _string),
    "default": ("is_default", _truth),
    "description": ("description", _string),
    "read-only": ("read_only", _truth),
    "require-tls": ("with_tls", _truth),
    "max-clients": ("max_clients", _from(0, 1_000_000)),
    "threads": ("threads", _from(1, 1024)),
}
"""Fields of `ExportTable`, by their keys, and what makes them of a value."""

_OTHER_KEYS = ("plugin", "filters", "parameters", "allow", "deny")

EXPORT_KEYS = (*_EXPORT_KEYS, *_OTHER_KEYS)
"""What every export has; all other keys are parameters of its layers."""
