"""argv -> Options: parse, check, and say in one line what is wrong.

Which options there are, and what holds for each, is declared in `options`; here is what holds for
all of them.  Options are taken anywhere on the line, as getopt_long(3) does, because the plugin
and its parameters come between them in real use.  The standard library's getopt does not do for
it: it calls an abbreviation ambiguous that fits two names of the same option (`--read`).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import chdir
from typing import TYPE_CHECKING, Any, NamedTuple

from nbdfork.argumentfiles import BadArgumentFile, expanded
from nbdfork.declaration import Field, Option
from nbdfork.manners import NBDFORK, Manners
from nbdfork.options import ONLY_ON_COMMAND_LINE, TABLE, Options

if TYPE_CHECKING:
    from nbdfork.configfile import Setting

_BY_NAME = {name: option for option in TABLE for name in option.names}


class UsageError(Exception):
    """The command line is wrong; the message says how."""


class _Given(NamedTuple):
    """An option that was given: its name, as it was written and with its place in a file if it was
    there, and its value.
    """

    option: Option[Any]
    name: str
    value: Any


def parse_arguments(
    argv: Sequence[str], activated: bool = False, manners: Manners = NBDFORK
) -> Options:
    """Parse *argv* (without the program's name, which *manners* are of).  Raises `UsageError`.

    *activated*: the listening sockets come from a service manager, so this stays in the foreground.
    """
    words: list[str] = []
    given: list[_Given] = []
    for option, name, text in split_words(argv):
        if option is None:
            words.append(text)
        else:
            given.append(_Given(option, name, _value(option, name, text)))
    _check_conflicts({one.option: one.name for one in given}, activated)
    values: dict[str, Any] = {
        **manners.defaults,
        "manners": manners,
        "plugin": words[0] if words else None,
        "arguments": _arguments(words[1:]),
    }
    if files := [one.value for one in given if one.option.field is Options.config]:
        from nbdfork import configfile  # and all that it imports

        if words:
            raise UsageError(
                f"--config and the plugin {words[0]!r} cannot go together: the file says what is"
                " served"
            )
        file = configfile.read(files[-1])
        values["exports"] = file.exports
        given = [*_from_file(files[-1], file.server, given), *given]
    _check_conflicts({one.option: one.name for one in given}, activated)
    for one in given:
        _set(values, one.option.field, one.value)
    if activated:
        _set(values, Options.foreground, True)
    _imply(values, given)
    _imply_politely(values, given, manners)
    return Options(**values)


def _arguments(words: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(expanded(words))
    except BadArgumentFile as error:
        raise UsageError(str(error)) from error


def _from_file(
    path: str, settings: Iterable["Setting"], given: Sequence[_Given]
) -> Iterator[_Given]:
    """Yield what the *settings* of a config file give, but for what the command line overrides.

    Relative paths are meant from the file's directory.  Raises `ConfigError`.
    """
    overriding = [one.option for one in given]
    with chdir(os.path.dirname(path)):
        for setting in settings:
            option = _option_of(setting)
            if option is None:
                continue
            overridden = not option.field.gathers and any(
                other.field is option.field or _excludes(option, other) or _excludes(other, option)
                for other in overriding
            )
            if not overridden:
                text = "" if option.metavar is None else setting.text
                try:
                    value = option.parse(text)
                except ValueError as error:
                    raise setting.place.error(f"{text}: {error}") from None
                yield _Given(option, f"{setting.key} ({setting.place})", value)


def _option_of(setting: "Setting") -> Option[Any] | None:
    """Return the option that a *setting* of a config file gives; None if it gives none."""
    option = _BY_NAME.get(f"--{setting.key}")
    if option is None or option.field.name in ONLY_ON_COMMAND_LINE:
        from nbdfork.configfile import near

        reason = "is an option of the command line alone" if option else "is no option"
        known = [name[2:] for name, one in _BY_NAME.items() if _may_be_in_file(name, one)]
        raise setting.place.error(f"{setting.key} {reason}{near(setting.key, known)}")
    if option.metavar is not None:
        return option
    if setting.text not in ("true", "false"):
        raise setting.place.error("true or false is expected")
    if setting.text == "true":
        return option
    opposite = [other for other in option.field.options if other is not option]
    return opposite[0] if len(opposite) == 1 else None


def _may_be_in_file(name: str, option: Option[Any]) -> bool:
    return name.startswith("--") and option.field.name not in ONLY_ON_COMMAND_LINE


def _set(values: dict[str, Any], field: Field[Any], value: Any) -> None:
    values[field.name] = (*values.get(field.name, ()), value) if field.gathers else value


# -- splitting --------------------------------------------------------------------------------


def split_words(argv: Sequence[str]) -> Iterator[tuple[Option[Any] | None, str, str]]:
    """Yield (option, its name as written, its argument or ""), or (None, "", word).

    Raises `UsageError`.
    """
    rest = iter(argv)
    for word in rest:
        if word == "--":
            yield from ((None, "", other) for other in rest)
        elif word.startswith("--"):
            name, separator, text = word.partition("=")
            option = _long_option(name)
            if separator and option.metavar is None:
                raise UsageError(f"{name} takes no argument, but is given {text!r}")
            yield option, name, text if separator else _argument(option, name, rest)
        elif word.startswith("-") and word != "-":
            yield from _short_options(word, rest)
        else:
            yield None, "", word


def _short_options(word: str, rest: Iterator[str]) -> Iterator[tuple[Option[Any], str, str]]:
    """Yield the options of a bundle like -fvp10809."""
    for index, letter in enumerate(word[1:], 2):
        name = f"-{letter}"
        option = _BY_NAME.get(name)
        if option is None:
            raise UsageError(f"unknown option {name}" + (f" in {word}" if len(word) > 2 else ""))
        if option.metavar is not None:
            yield option, name, word[index:] or _argument(option, name, rest)
            return
        yield option, name, ""


def _argument(option: Option[Any], name: str, rest: Iterator[str]) -> str:
    if option.metavar is None:
        return ""
    try:
        return next(rest)
    except StopIteration:
        raise UsageError(f"{name} needs an argument: {option.metavar}") from None


def _long_option(name: str) -> Option[Any]:
    """Find a long option by its name or an abbreviation that fits no other option."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    matches = [known for known in _BY_NAME if known.startswith(name)]
    options = {_BY_NAME[known] for known in matches}
    if len(options) == 1:
        return options.pop()
    if matches:
        raise UsageError(f"{name} is ambiguous: it may be {', '.join(sorted(matches))}")
    import difflib  # only needed after a typing mistake

    close = difflib.get_close_matches(name, _BY_NAME, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"unknown option {name}{hint}")


def _value(option: Option[Any], name: str, text: str) -> Any:
    try:
        return option.parse(text)
    except ValueError as error:
        raise UsageError(f"{name} {text}: {error}") from None


# -- what holds between options ---------------------------------------------------------------


def _check_conflicts(names: dict[Option[Any], str], activated: bool) -> None:
    """Raise `UsageError` for options that exclude each other; *names* are those as written."""
    for option, name in names.items():
        for excluded, reason in option.excludes.items():
            other = names.get(_BY_NAME[excluded])
            if other is not None:
                raise UsageError(f"{name} and {other} cannot go together: {reason}")
        if activated and option.not_activated:
            raise UsageError(
                f"{name} cannot be used when a service manager passes the sockets (LISTEN_FDS)"
            )


def _excludes(one: Option[Any], other: Option[Any]) -> bool:
    return not one.excludes.keys().isdisjoint(other.names)


def _imply(values: dict[str, Any], given: Sequence[_Given]) -> None:
    """Set what the options *given* imply, and what that implies in turn.

    A value that is the default asks for nothing, and so implies nothing: `--tls=off`.  Raises
    `UsageError` if it was asked for, and is what another option cannot do with.
    """
    asked_for = {one.option.field.name: one for one in given}  # the last of each counts
    todo = list(asked_for.values())
    for option, name, value in todo:
        if option.implies is None or value == option.field.default:
            continue
        ((implied, _, text),) = split_words([option.implies])
        assert implied is not None
        contrary = asked_for.get(implied.field.name)
        if contrary is None:
            found = _Given(implied, name, _value(implied, option.implies, text))
            values[implied.field.name] = found.value
            todo.append(found)
        elif contrary.value == implied.field.default or _excludes(contrary.option, implied):
            other = contrary.name + (f"={contrary.value}" if contrary.option.metavar else "")
            raise UsageError(
                f"{name} and {other} cannot go together: {name} implies {option.implies}"
            )


def _imply_politely(values: dict[str, Any], given: Sequence[_Given], manners: Manners) -> None:
    """Set what *manners* imply of the options *given*, where none of them says otherwise."""
    for one in given:
        text = manners.implies.get(one.option.field.name)
        if text is None:
            continue
        ((implied, name, argument),) = split_words(text.split())
        assert implied is not None
        others = [other.option for other in given]
        contrary = (_excludes(implied, other) or _excludes(other, implied) for other in others)
        if implied not in others and not any(contrary):
            values[implied.field.name] = _value(implied, name, argument)
