"""Parameters: the `key=value` arguments of a plugin, declared once.

A parameter is declared as a class attribute, read as an instance attribute:

    class Ram(Plugin):
        size = Parameter(parse.size, required=True, magic=True, metavar="SIZE",
                         help="the size of the disk")

From the declaration come parsing, error messages, `--help PLUGIN` and `--dump-plugin`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar, overload

from nbdfork.plugin.errors import ConfigError

T = TypeVar("T")
V = TypeVar("V")

HIDDEN = "***"
"""What is shown in place of a secret."""

_LIKE_A_SECRET = re.compile("passw|passphrase|secret|token|cookie$|header$", re.IGNORECASE)

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def shown(key: str, value: str) -> str:
    """Return key=value as it may be shown, where it is not declared which parameters are secrets.

    A script or a C plugin knows that alone; but a password or a token has a key that says so.
    """
    return f"{key}={HIDDEN if _LIKE_A_SECRET.search(key) else value}"


class Parameter(Generic[T]):
    """One `key=value` parameter.

    *key*: by default the attribute's name with "_" written as "-".
    *parse* makes the value of the text and raises ValueError with a message for the user.
    *magic*: a bare argument, without `key=`, is the value of this parameter.
    *repeatable*: it may be given several times, and its value is a tuple of all of them.
    """

    @overload
    def __init__(
        self,
        parse: Callable[[str], T],
        *,
        metavar: str,
        help: str,
        required: Literal[True],
        magic: bool = False,
        key: str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "Parameter[tuple[V, ...]]",
        parse: Callable[[str], V],
        *,
        metavar: str,
        help: str,
        repeatable: Literal[True],
        required: bool = False,
        magic: bool = False,
        key: str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        parse: Callable[[str], T],
        *,
        metavar: str,
        help: str,
        default: T,
        magic: bool = False,
        key: str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "Parameter[T | None]",
        parse: Callable[[str], T],
        *,
        metavar: str,
        help: str,
        magic: bool = False,
        key: str | None = None,
    ) -> None: ...

    def __init__(
        self,
        parse: Callable[[str], Any],
        *,
        metavar: str,
        help: str,
        default: Any = None,
        required: bool = False,
        repeatable: bool = False,
        magic: bool = False,
        key: str | None = None,
    ) -> None:
        self.parse = parse
        self.metavar = metavar
        self.help = help
        self.default = () if repeatable else default
        self.repeatable = repeatable
        self.required = required
        self.magic = magic
        self.key = key or ""
        self._attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._attribute = name
        self.key = self.key or name.replace("_", "-")

    @overload
    def __get__(self, instance: None, owner: type) -> "Parameter[T]": ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> "Parameter[T] | T":
        if instance is None:
            return self
        value: T = instance.__dict__.get(self._attribute, self.default)
        return value

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self._attribute] = value


class Secret(Parameter[T]):
    """A parameter whose value is shown nowhere: not by ps(1), and not in messages."""


def split(argument: str) -> tuple[str | None, str]:
    """Split an argument of the command line into key and text; a bare one has no key."""
    key, separator, text = argument.partition("=")
    if separator and _KEY.fullmatch(key):
        return key, text
    return None, argument


class ParameterSet:
    """The parameters declared by one plugin class."""

    def __init__(self, plugin_class: type) -> None:
        declared: dict[str, Parameter[Any]] = {}
        for base in reversed(plugin_class.__mro__):
            for value in vars(base).values():
                if isinstance(value, Parameter):
                    declared[value.key] = value
        self.by_key = declared
        self.magic = next((p for p in declared.values() if p.magic), None)

    def set_values(self, plugin: object, values: Mapping[str, Any]) -> None:
        """Set parameters to *values*, by their keys with "-" written as "_"; text is parsed.

        Raises TypeError for a name that is not declared, ValueError for text that is wrong.
        """
        by_name = {key.replace("-", "_"): one for key, one in self.by_key.items()}
        for name, value in values.items():
            parameter = by_name.get(name)
            if parameter is None:
                raise TypeError(f"{type(plugin).__name__} has no parameter {name!r}")
            if isinstance(value, str):
                value = parameter.parse(value)
                value = (value,) if parameter.repeatable else value
            parameter.__set__(plugin, value)

    def help_lines(self) -> list[str]:
        """Return the parameters as `--help PLUGIN` shows them, a line each."""
        rows = []
        for key, parameter in self.by_key.items():
            shown = (f"[{key}=]" if parameter.magic else f"{key}=") + parameter.metavar
            note = " (required)" if parameter.required else ""
            if parameter.repeatable:
                note += " (may be repeated)"
            elif parameter.default is not None:
                note = f" (default: {parameter.default})"
            rows.append((shown, parameter.help + note))
        width = max((len(shown) for shown, _ in rows), default=0)
        return [f"{shown:<{width}}  {text}" for shown, text in rows]


class Assignment:
    """The parameters of one plugin being set from the command line."""

    def __init__(self, plugin: object, plugin_name: str) -> None:
        self.declared = ParameterSet(type(plugin))
        self._plugin = plugin
        self._name = plugin_name
        self._given: set[str] = set()

    def set(self, key: str, text: str) -> None:
        """Set the parameter *key*.  Raises `ConfigError` if it is malformed or given twice."""
        parameter = self.declared.by_key[key]
        if key in self._given and not parameter.repeatable:
            raise ConfigError(f"{self._name}: {key}= is given twice")
        self._given.add(key)
        try:
            value = parameter.parse(text)
        except ValueError as error:
            shown = HIDDEN if isinstance(parameter, Secret) else text
            raise ConfigError(f"{self._name}: {key}={shown}: {error}") from None
        if parameter.repeatable:
            value = (*parameter.__get__(self._plugin, type(self._plugin)), value)
        parameter.__set__(self._plugin, value)

    def finish(self) -> None:
        """Raise `ConfigError` if a required parameter has not been set."""
        for key, parameter in self.declared.by_key.items():
            is_set = parameter.__get__(self._plugin, type(self._plugin)) not in (None, ())
            if parameter.required and not is_set:
                raise ConfigError(
                    f"{self._name}: the parameter {key}={parameter.metavar} is required"
                    f" ({parameter.help})"
                )


def unknown(plugin_name: str, key: str | None, text: str, known: Iterable[str]) -> ConfigError:
    """Return the error for an argument that nobody takes, naming the *known* keys."""
    keys = list(known)
    listed = "Its parameters are: " + " ".join(f"{one}=" for one in keys)
    if not keys:
        listed = "This plugin takes no parameters."
    if key is None:
        return ConfigError(f"{plugin_name}: {text!r} is not of the form key=value; {listed}")
    import difflib  # only for those who mistype

    close = difflib.get_close_matches(key, keys, 1)
    hint = f"; did you mean {close[0]}=?" if close else ""
    return ConfigError(f"{plugin_name}: unknown parameter {key}={hint} {listed}")
