"""A command line as a config file (`--dump-config-file`)."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from nbdfork import layers
from nbdfork.backend.arguments import magic_key, split
from nbdfork.cli import split_words
from nbdfork.configfile import EXPORT_KEYS
from nbdfork.options import ONLY_ON_COMMAND_LINE, Options
from nbdfork.plugin import ConfigError, Secret, parameters_of, parse

_HEAD = """\
# A config file of nbdfork; see nbdfork.conf(5).
"""


def config_file(options: Options, argv: Sequence[str]) -> str:
    """Return the config file that is the same as the command line *argv*, which *options* are.

    Raises `ConfigError`.
    """
    lines = [_HEAD]
    server = list(_server(argv))
    if server:
        lines += ["[server]", *_assignments(server), ""]
    lines += ["[[export]]", *_export(options)]
    return "\n".join(lines) + "\n"


def _server(argv: Sequence[str]) -> Iterator[tuple[str, str | bool]]:
    """Yield the key and the value of each option, those of a field that gathers several times."""
    last: dict[str, tuple[str, str | bool]] = {}
    for option, _, text in split_words(argv):
        if option is None or option.field.name in ONLY_ON_COMMAND_LINE:
            continue
        key = option.names[-1].removeprefix("--")
        value: str | bool = True
        if option.metavar is not None:
            parsed = option.parse(text)
            value = parsed if isinstance(parsed, str) else text  # paths are absolute
        if option.field.gathers:
            yield key, value
        else:
            last[option.field.name] = (key, value)
    yield from last.values()


def _export(options: Options) -> Iterator[str]:
    found = layers.find(options)
    layers.configure(layers.make(found), options)  # so that what is wrong is told here
    plugin_class = found[-1].plugin_class
    if options.export_name is not None:
        yield f"name = {_shown(options.export_name)}"
    yield f"plugin = {_shown(_path(options.plugin or ''))}"
    if options.filters:
        yield f"filters = [{', '.join(_shown(_path(name)) for name in options.filters)}]"
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for argument in options.arguments:
        key, text = split(argument)
        key = key or magic_key(plugin_class)
        assert key is not None  # or it would not have been configured
        for one in found:
            parameter = parameters_of(one.plugin_class).get(key)
            if parameter is not None:
                if parameter.parse is parse.path:
                    text = parse.path(text)
                if isinstance(parameter, Secret):
                    yield f'# Better in a file that few can read: {key} = {{ file = "PATH" }}'
                break
        (own if key in EXPORT_KEYS else common).append((key, text))
    yield from _assignments(common)
    yield from _assignments([(f"parameters.{key}", text) for key, text in own])


def _path(name: str) -> str:
    """Return the name of a plugin or a filter; if it is a path, an absolute one."""
    return parse.path(name) if "/" in name else name


def _assignments(pairs: Sequence[tuple[str, Any]]) -> Iterator[str]:
    values: dict[str, list[str]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(_shown(value))
    for key, shown in values.items():
        yield f"{key} = {shown[0] if len(shown) == 1 else '[' + ', '.join(shown) + ']'}"


def _shown(value: str | bool) -> str:
    """Return *value* as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value.isascii() and value.isdecimal() and str(int(value)) == value and len(value) < 19:
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{value!a} is not UTF-8, which a config file is") from None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
