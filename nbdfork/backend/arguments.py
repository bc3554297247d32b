"""The `key=value` arguments of the command line, and the parameters that plugins declare.

What a user typed becomes values of plugins here, or a message that names the key and the fix.
"""

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from nbdfork.backend import absent
from nbdfork.plugin import ConfigError, Parameter, Plugin, Secret, parameters_of, shown

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def split(argument: str) -> tuple[str | None, str]:
    """Split an argument of the command line into key and text; a bare one has no key."""
    key, separator, text = argument.partition("=")
    if separator and _KEY.fullmatch(key):
        return key, text
    return None, argument


def magic_key(plugin_class: type) -> str | None:
    """Return the key of the parameter that an argument without a key is for."""
    declared = parameters_of(plugin_class).items()
    return next((key for key, parameter in declared if parameter.magic), None)


def takes_any_key(plugin: Plugin) -> bool:
    """Return whether *plugin* takes keys that it does not declare."""
    return type(plugin).config is not Plugin.config


def help_rows(declared: Mapping[str, Parameter[Any]]) -> list[tuple[str, str]]:
    """Return the form of each parameter, and what `--help PLUGIN` says of it."""
    rows = []
    for key, parameter in declared.items():
        argument = (f"[{key}=]" if parameter.magic else f"{key}=") + parameter.metavar
        note = " (required)" if parameter.required else ""
        if parameter.repeatable:
            note += " (may be repeated)"
        elif parameter.default is not None:
            note = f" (default: {_shown_default(parameter)})"
        rows.append((argument, parameter.help + note))
    return rows


def _shown_default(parameter: Parameter[Any]) -> str:
    """Return the default of a parameter as a user would type it."""
    value = parameter.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, int):
        return next(filter(partial(_means, parameter, value), _with_units(value)), str(value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _with_units(number: int) -> Iterator[str]:
    """Yield the ways to write *number* with a unit, the largest first."""
    for power, unit in reversed(list(enumerate("KMGTPE", 1))):
        if number and not number % 1024**power:
            yield f"{number // 1024**power}{unit}"


def _means(parameter: Parameter[Any], value: object, text: str) -> bool:
    """Return whether *text* is taken for *value*."""
    try:
        return bool(parameter.parse(text) == value)
    except ValueError:
        return False


class Assignment:
    """The parameters of one plugin being set from the command line."""

    def __init__(self, plugin: Plugin, plugin_name: str) -> None:
        self.declared = parameters_of(type(plugin))
        self._plugin = plugin
        self._name = plugin_name
        self._given: set[str] = set()

    def takes(self, key: str) -> bool:
        """Return whether the parameter *key* can be set, once more if it has been."""
        return self.declared[key].repeatable or key not in self._given

    def set(self, key: str, text: str) -> None:
        """Set the parameter *key*.  Raises `ConfigError` if it is malformed or given twice."""
        parameter = self.declared[key]
        if key in self._given and not parameter.repeatable:
            raise ConfigError(f"{self._name}: {key}= is given twice")
        self._given.add(key)
        try:
            value = parameter.parse(text)
        except ValueError as error:
            argument = shown(key, text, secret=isinstance(parameter, Secret))
            raise ConfigError(f"{self._name}: {argument}: {error}") from None
        if parameter.repeatable:
            value = (*parameter.__get__(self._plugin, type(self._plugin)), value)
        parameter.__set__(self._plugin, value)

    def finish(self) -> None:
        """Raise `ConfigError` if a required parameter has not been set."""
        for key, parameter in self.declared.items():
            is_set = parameter.__get__(self._plugin, type(self._plugin)) not in (None, ())
            if parameter.required and not is_set:
                raise ConfigError(
                    f"{self._name}: the parameter {key}={parameter.metavar} is required"
                    f" ({parameter.help})"
                )


def unknown(
    plugin_name: str,
    key: str | None,
    text: str,
    known: Iterable[str],
    filters: Iterable[str] = (),
) -> ConfigError:
    """Return the error for an argument that nobody takes, naming the *known* keys.

    *filters* are those that would take the key.
    """
    keys = list(known)
    listed = "Its parameters are: " + " ".join(f"{one}=" for one in keys)
    if not keys:
        listed = "This plugin takes no parameters."
    if key is None:
        return ConfigError(f"{plugin_name}: {text!r} is not of the form key=value; {listed}")
    if filters:
        options = " or ".join(f"--filter={name}" for name in filters)
        return ConfigError(f"{plugin_name}: unknown parameter {key}=; it is one of {options}")
    if explained := absent.explanation_of_key(plugin_name, key):
        return ConfigError(f"{plugin_name}: unknown parameter {key}=. {explained} {listed}")
    import difflib  # only needed after a typing mistake

    close = difflib.get_close_matches(key, keys, 1)
    hint = f"; did you mean {close[0]}=?" if close else "."
    return ConfigError(f"{plugin_name}: unknown parameter {key}={hint} {listed}")
