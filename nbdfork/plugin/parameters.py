"""Parameters: the `key=value` arguments of a plugin, declared once.

A parameter is declared as a class attribute, read as an instance attribute:

    class Ram(Plugin):
        size = Parameter(parse.size, required=True, magic=True, metavar="SIZE",
                         help="the size of the disk")

From the declaration come parsing, error messages, `--help PLUGIN` and `--dump-plugin`.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, TypeVar, overload

from nbdfork.plugin.errors import ConfigError

T = TypeVar("T")

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class Parameter(Generic[T]):
    """One `key=value` parameter; the key is the attribute's name with "_" written as "-".

    *parse* makes the value of the text and raises ValueError with a message for the user.
    *magic*: a bare argument, without `key=`, is the value of this parameter.
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
    ) -> None: ...

    @overload
    def __init__(
        self: "Parameter[T | None]",
        parse: Callable[[str], T],
        *,
        metavar: str,
        help: str,
        magic: bool = False,
    ) -> None: ...

    def __init__(
        self,
        parse: Callable[[str], Any],
        *,
        metavar: str,
        help: str,
        default: Any = None,
        required: bool = False,
        magic: bool = False,
    ) -> None:
        self.parse = parse
        self.metavar = metavar
        self.help = help
        self.default = default
        self.required = required
        self.magic = magic
        self.key = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = name.replace("_", "-")

    @overload
    def __get__(self, instance: None, owner: type) -> "Parameter[T]": ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> "Parameter[T] | T":
        if instance is None:
            return self
        value: T = instance.__dict__.get(self.key, self.default)
        return value

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self.key] = value


class ParameterSet:
    """The parameters declared by one plugin class, and the assignment of arguments to them."""

    def __init__(self, plugin_class: type) -> None:
        declared: dict[str, Parameter[Any]] = {}
        for base in reversed(plugin_class.__mro__):
            for value in vars(base).values():
                if isinstance(value, Parameter):
                    declared[value.key] = value
        self.by_key = declared
        self.magic = next((p for p in declared.values() if p.magic), None)

    def assign(self, plugin: object, plugin_name: str, arguments: Iterable[str]) -> None:
        """Set *plugin*'s parameters from command line *arguments*.

        Raises `ConfigError` for what is unknown, malformed, given twice or missing.
        """
        given: set[str] = set()
        for argument in arguments:
            parameter, text = self._match(plugin_name, argument)
            if parameter.key in given:
                raise ConfigError(f"{plugin_name}: {parameter.key}= is given twice")
            given.add(parameter.key)
            try:
                parameter.__set__(plugin, parameter.parse(text))
            except ValueError as error:
                raise ConfigError(f"{plugin_name}: {parameter.key}={text}: {error}") from None
        for key, parameter in self.by_key.items():
            if parameter.required and key not in given:
                raise ConfigError(
                    f"{plugin_name}: the parameter {key}={parameter.metavar} is required"
                    f" ({parameter.help})"
                )

    def _match(self, plugin_name: str, argument: str) -> tuple[Parameter[Any], str]:
        key, separator, text = argument.partition("=")
        if not separator or not _KEY.fullmatch(key):
            if self.magic is None:
                raise ConfigError(
                    f"{plugin_name}: {argument!r} is not of the form key=value; {self._known()}"
                )
            return self.magic, argument
        if key not in self.by_key:
            close = difflib.get_close_matches(key, self.by_key, 1)
            hint = f"; did you mean {close[0]}=?" if close else ""
            raise ConfigError(f"{plugin_name}: unknown parameter {key}={hint} {self._known()}")
        return self.by_key[key], text

    def _known(self) -> str:
        if not self.by_key:
            return "This plugin takes no parameters."
        return "Its parameters are: " + " ".join(f"{key}=" for key in self.by_key)

    def help_lines(self) -> list[str]:
        """Return the parameters as `--help PLUGIN` shows them, a line each."""
        rows = []
        for key, parameter in self.by_key.items():
            shown = (f"[{key}=]" if parameter.magic else f"{key}=") + parameter.metavar
            note = " (required)" if parameter.required else ""
            if parameter.default is not None:
                note = f" (default: {parameter.default})"
            rows.append((shown, parameter.help + note))
        width = max((len(shown) for shown, _ in rows), default=0)
        return [f"{shown:<{width}}  {text}" for shown, text in rows]
