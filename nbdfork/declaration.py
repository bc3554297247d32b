"""How options are declared: what one is called and what it does, and the value that it sets.

`options` declares them with this, `cli` parses by it, and `info` prints it as `--help`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Never, NoReturn, TypeVar, overload

_DEFAULT = " (default)"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Option(Generic[T_co]):
    """One option.

    *usage*: its names and its argument, if it takes one, as `--help` shows them.  *help*: the rest
    of that line, where {default} stands for the default of its field.  *parse* makes the value of
    the argument, and raises ValueError with a message for the user.  *implies*: another option, as
    a user writes it, which is as good as given.  *excludes*: options that cannot be given with
    this one, and why.  *not_activated*: it cannot be given if a service manager passes the sockets.
    """

    def __init__(
        self,
        usage: str,
        help: str,
        parse: Callable[[str], T_co],
        *,
        implies: str | None = None,
        excludes: Mapping[str, str] | None = None,
        not_activated: bool = False,
    ) -> None:
        words = usage.replace(",", "").split()
        self.names = tuple(word for word in words if word.startswith("-"))
        self.metavar = next((word for word in words if not word.startswith("-")), None)
        self.parse = parse
        self.implies = implies
        pairs = (excludes or {}).items()
        self.excludes = {name: why for names, why in pairs for name in names.split()}
        self.not_activated = not_activated
        self._help = help
        self.field: Field[Any]  # which takes it up

    @property
    def tells_default(self) -> bool:
        """Whether the help tells the default of the field."""
        return "{default}" in self._help

    @property
    def help(self) -> str:
        """What the option does, the default, and what it implies."""
        return self.help_for({})

    def help_for(self, defaults: Mapping[str, Any]) -> str:
        """The same where fields have other *defaults*."""
        return self._with_implied(self._help.format(default=self.field.show_default(defaults)))

    def _with_implied(self, text: str) -> str:
        return f"{text} (implies {self.implies})" if self.implies else text


class Flag(Option[T_co]):
    """An option without an argument, which sets its field to *value*."""

    def __init__(self, usage: str, help: str, value: T_co, **rules: Any) -> None:
        super().__init__(usage, help, lambda _: value, **rules)
        self._value = value

    def help_for(self, defaults: Mapping[str, Any]) -> str:
        if self.field.name not in defaults:
            return super().help_for(defaults)
        text = self._help.removesuffix(_DEFAULT)
        is_default = defaults[self.field.name] == self._value
        return self._with_implied(text + _DEFAULT if is_default else text)


class Field(Generic[T]):
    """A field of `Options`; of *options*, which set it, the last one that is given counts."""

    name: str
    gathers = False

    def __init__(self, default: T, *options: Option[T]) -> None:
        self.default = default
        self.options = options
        for option in options:
            option.field = self

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def show_default(self, defaults: Mapping[str, Any]) -> str:
        """Return the default, which may be another in *defaults*, for people."""
        default = defaults.get(self.name, self.default)
        return f"{default:g}" if isinstance(default, float) else str(default)

    @overload
    def __get__(self, instance: None, owner: type) -> "Field[T]": ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> "Field[T] | T":
        if instance is None:
            return self
        value: T = vars(instance)[self.name]
        return value

    def __set__(self, instance: object, value: Never) -> NoReturn:
        raise AttributeError(f"{self.name}: options are set by the command line alone")


class Gathered(Field[tuple[T, ...]]):
    """A field for all arguments of an option that may be given several times."""

    gathers = True

    def __init__(self, option: Option[T]) -> None:
        super().__init__(())
        self.options = (option,)  # type: ignore[assignment]  # each gives one part of the value
        option.field = self


class Declared:
    """A frozen value of the fields that its class declares; what is not given is the default."""

    def __init__(self, **values: object) -> None:
        fields = self.fields()
        unknown = values.keys() - {field.name for field in fields}
        if unknown:
            raise TypeError(f"there is no option field {', '.join(sorted(unknown))}")
        vars(self).update({field.name: field.default for field in fields} | values)

    @classmethod
    def fields(cls) -> tuple[Field[Any], ...]:
        """Return the fields, in their order; those of a base class follow."""
        everything = (value for kind in cls.__mro__ for value in vars(kind).values())
        return tuple(value for value in everything if isinstance(value, Field))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        mine = vars(self)
        given = [f"{f.name}={mine[f.name]!r}" for f in self.fields() if mine[f.name] != f.default]
        return f"{type(self).__name__}({', '.join(given)})"
