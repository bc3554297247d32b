"""Parameters: the `key=value` arguments of a plugin, declared once.

A parameter is declared as a class attribute, read as an instance attribute:

    class Ram(Plugin):
        size = Parameter(parse.size, required=True, magic=True, metavar="SIZE",
                         help="the size of the disk")

From the declaration come parsing, error messages, `--help PLUGIN` and `--dump-plugin`; what makes
them of it is the server's (`nbdfork.backend.arguments`).
"""

import re
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, overload

T = TypeVar("T")
V = TypeVar("V")

_LIKE_A_SECRET = re.compile("passw|passphrase|secret|token|cookie$|header$", re.IGNORECASE)


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


def parameters_of(plugin_class: type) -> dict[str, Parameter[Any]]:
    """Return the parameters that a class and those above it declare, by their keys."""
    declared: dict[str, Parameter[Any]] = {}
    for base in reversed(plugin_class.__mro__):
        for value in vars(base).values():
            if isinstance(value, Parameter):
                declared[value.key] = value
    return declared


def shown(key: str, value: str, *, secret: bool | None = None) -> str:
    """Return key=value as it may be shown to anybody.

    Whether it is *secret* is guessed from the key unless it is known: a script or a C plugin does
    not declare its parameters, but a password or a token has a key that says so.
    """
    if secret is None:
        secret = _LIKE_A_SECRET.search(key) is not None
    return f"{key}=***" if secret else f"{key}={value}"
