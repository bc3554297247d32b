"""argv -> Options: parse, check, and say in one line what is wrong.

Options are taken anywhere on the line, as getopt_long(3) does, because the plugin and its
parameters come between them in real use.  The standard library's getopt does not do for it:
it calls an abbreviation ambiguous that fits two names of the same option (`--read`).
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nbdfork.options import TABLE, Option, Options
from nbdfork.plugin import parse

_BY_NAME = {name: option for option in TABLE for name in option.names}
_MOST = 1_000_000


class UsageError(Exception):
    """The command line is wrong; the message says how."""


def parse_arguments(argv: Sequence[str], activated: bool = False) -> Options:
    """Parse *argv* (without the program's name).  Raises `UsageError`.

    *activated*: the listening sockets come from a service manager.
    """
    given: dict[str, Any] = {}
    names: dict[str, str] = {}  # as the user wrote them, for messages
    words: list[str] = []
    repeated: dict[str, list[Any]] = {key: [] for key in _REPEATABLE}
    for option, value, name in _split(argv):
        if option is None:
            words.append(value)
            continue
        names.pop(option.key, None)
        names[option.key] = name  # in the order of their last use
        converted = _convert(option, name, value)
        if option.key in repeated:
            repeated[option.key].append(converted)
        else:
            given[option.key.replace("-", "_")] = converted
    _check_conflicts(names, activated)
    for option_key, implied in _IMPLIED.items():
        if option_key in names:
            given[implied] = True
    _settle_tls(given, names)
    if activated:
        given["foreground"] = True
    if names.keys() & {"ipv4-only", "ipv6-only"}:  # the last of the two counts
        last = [key for key in names if key in ("ipv4-only", "ipv6-only")][-1]
        given |= {"ipv4_only": last == "ipv4-only", "ipv6_only": last == "ipv6-only"}
    given.pop("oldstyle", None)  # the default
    plugin = words[0] if words else None
    given |= {_REPEATABLE[key]: tuple(values) for key, values in repeated.items()}
    return Options(plugin=plugin, arguments=tuple(words[1:]), **given)


_REPEATABLE = {"debug": "debug", "filter": "filters"}
"""The options that may be given several times, and the fields that gather them."""

_IMPLIED = {
    "exportname": "newstyle",
    "run": "foreground",
    "single": "foreground",
    "exit-with-parent": "foreground",
}


# -- splitting --------------------------------------------------------------------------------


def _split(argv: Sequence[str]) -> Iterator[tuple[Option | None, str, str]]:
    """Yield (option, its argument or "", its name as written), or (None, word, "")."""
    rest = iter(argv)
    for word in rest:
        if word == "--":
            yield from ((None, other, "") for other in rest)
        elif word.startswith("--"):
            name, separator, value = word.partition("=")
            option = _long_option(name)
            if separator and option.metavar is None:
                raise UsageError(f"{name} takes no argument, but is given {value!r}")
            yield option, value if separator else _argument(option, name, rest), name
        elif word.startswith("-") and word != "-":
            yield from _short_options(word, rest)
        else:
            yield None, word, ""


def _short_options(word: str, rest: Iterator[str]) -> Iterator[tuple[Option, str, str]]:
    """Yield the options of a bundle like -fvp10809."""
    for index, letter in enumerate(word[1:], 2):
        name = f"-{letter}"
        option = _BY_NAME.get(name)
        if option is None:
            raise UsageError(f"unknown option {name}" + (f" in {word}" if len(word) > 2 else ""))
        if option.metavar is not None:
            yield option, word[index:] or _argument(option, name, rest), name
            return
        yield option, "", name


def _argument(option: Option, name: str, rest: Iterator[str]) -> str:
    if option.metavar is None:
        return ""
    try:
        return next(rest)
    except StopIteration:
        raise UsageError(f"{name} needs an argument: {option.metavar}") from None


def _long_option(name: str) -> Option:
    """Find a long option by its name or an abbreviation that fits no other option."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    matches = [known for known in _BY_NAME if known.startswith(name)]
    options = {_BY_NAME[known] for known in matches}
    if len(options) == 1:
        return options.pop()
    if matches:
        raise UsageError(f"{name} is ambiguous: it may be {', '.join(sorted(matches))}")
    import difflib  # only for those who mistype

    close = difflib.get_close_matches(name, _BY_NAME, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"unknown option {name}{hint}")


# -- values -----------------------------------------------------------------------------------


def _convert(option: Option, name: str, value: str) -> Any:
    if option.metavar is None:
        return True
    try:
        return _CONVERTERS.get(option.key, str)(value)
    except ValueError as error:
        raise UsageError(f"{name} {value}: {error}") from None


def _port(text: str) -> str:
    if text.isdecimal() and int(text) > 65535:
        raise ValueError("a TCP port is at most 65535")
    if not text:
        raise ValueError("a port number or a service name is expected")
    return text


def _seconds(text: str) -> float:
    value = float(text) if re.fullmatch(r"[0-9.]+", text, re.ASCII) else math.nan
    if not math.isfinite(value):
        raise ValueError("a number of seconds is expected")
    return value


def _log(text: str) -> str:
    return text if text in ("stderr", "syslog", "null") else parse.path(text)


def _unix(text: str) -> str:
    return text if text == "-" else parse.path(text)


def _mask(text: str) -> int:
    value = int(text, 0) if re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", text, re.ASCII) else -1
    if not 0 <= value <= 0xFFFF:
        raise ValueError("a number up to 0xffff is expected")
    return value


def _tls(text: str) -> str:
    if text not in ("off", "on", "require"):
        raise ValueError("off, on or require is expected")
    return text


def _debug_flag(text: str) -> tuple[str, str, int]:
    match = re.fullmatch(r"([^.=]+)\.([^=]+)=([0-9]+)", text, re.ASCII)
    if match is None:
        raise ValueError("expected nbdfork.FLAG=N or PLUGIN.FLAG=N")
    return match[1], match[2], int(match[3])


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "clients-per-worker": parse.whole(0, _MOST),
    "debug": _debug_flag,
    "handshake-limit": _seconds,
    "log": _log,
    "mask-handshake": _mask,
    "max-clients": parse.whole(1, _MOST),
    "pidfile": parse.path,
    "port": _port,
    "shutdown-limit": _seconds,
    "spare-workers": parse.whole(1, _MOST),
    "threads": parse.whole(1, 1024),
    "tls": _tls,
    "tls-certificates": parse.path,
    "tls-psk": parse.path,
    "unix": _unix,
}


# -- what does not go together ----------------------------------------------------------------

_CONFLICTS = (
    ("oldstyle", ("exportname",), "the oldstyle protocol has no export names"),
    ("oldstyle", ("newstyle",), "a server speaks one of them"),
    ("unix", ("port", "ipaddr", "ipv4-only", "ipv6-only", "keepalive"), "these are for TCP"),
    (
        "single",
        ("port", "ipaddr", "ipv4-only", "ipv6-only", "unix", "run", "print-uri"),
        "with -s the client is on stdin and stdout",
    ),
    ("tls-psk", ("tls-certificates", "tls-verify-peer"), "keys take the place of certificates"),
    (
        "single",
        ("max-clients", "spare-workers", "clients-per-worker"),
        "with -s there is one client and no pool of workers",
    ),
)

_OF_TLS = ("tls-certificates", "tls-psk", "tls-verify-peer")

_NOT_ACTIVATED = ("port", "ipaddr", "ipv4-only", "ipv6-only", "unix", "single", "run")


def _check_conflicts(names: dict[str, str], activated: bool) -> None:
    for one, others, reason in _CONFLICTS:
        for other in others:
            if one in names and other in names:
                raise UsageError(f"{names[one]} and {names[other]} cannot go together: {reason}")
    for key in _NOT_ACTIVATED:
        if activated and key in names:
            raise UsageError(
                f"{names[key]} cannot be used when a service manager passes the sockets"
                " (LISTEN_FDS)"
            )


def _settle_tls(given: dict[str, Any], names: dict[str, str]) -> None:
    """Who says what TLS is done with wants it, and needs the newstyle protocol."""
    asking = [names[key] for key in _OF_TLS if key in names]
    tls = given.setdefault("tls", "on" if asking else "off")
    if tls == "off":
        if asking:
            raise UsageError(f"{asking[0]} and --tls=off cannot go together")
        return
    if "oldstyle" in names:
        asking.append(f"--tls={tls}")
        raise UsageError(
            f"{names['oldstyle']} and {asking[0]} cannot go together:"
            " the oldstyle protocol has no TLS"
        )
    given["newstyle"] = True
