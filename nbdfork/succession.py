"""One program of a server after another: what is handed over, and what the new one must want.

The steps of it are the server wing's (`server.handover`, `server.reloading`); here they are given
what they need of the options and of plugins.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from nbdfork.assembly import Shelf
from nbdfork.backend import kept
from nbdfork.backend.kept import Piece
from nbdfork.backend.life import Life
from nbdfork.options import Options
from nbdfork.plugin import ConfigError
from nbdfork.server.errors import StartupError
from nbdfork.server.handover import Program, Takeover
from nbdfork.server.reloading import Reloadable

log = logging.getLogger(__name__)

_UNCHANGEABLE = ("address", "port", "family", "unix", "unix_mode", "pidfile", "user", "group")
_UNCHANGEABLE_TOO = ("control", "worker_uids", "log")
"""The fields of options that only a start can carry out."""


def program() -> Program:
    """Return how this program was started.

    A script is started by its name again: that may be a link which leads to another version by
    then, with an interpreter and packages of its own.
    """
    interpreter, *words = sys.orig_argv
    if words and _interpreter_of(words[0]) == interpreter:
        return Program(words[0], words, os.getcwd())
    return Program(sys.executable, [interpreter, *words], os.getcwd())


def _interpreter_of(path: str) -> str | None:
    """Return what the first line of a script says that it is run by; None if it is no script."""
    try:
        with open(path, "rb") as file:
            line = file.readline(1000)
    except OSError:
        return None
    return os.fsdecode(line[2:].strip()) if line.startswith(b"#!") else None


def demands(options: Options) -> dict[str, Any]:
    """Return what another program must want as this one does, by the names of the options."""
    fields = [field for field in options.fields() if field.name in _UNCHANGEABLE]
    fields += [field for field in options.fields() if field.name in _UNCHANGEABLE_TOO]
    return {field.options[0].names[-1]: _plain(vars(options)[field.name]) for field in fields}


def _plain(value: object) -> object:
    """Return *value* as it is when it has been JSON."""
    return list(value) if isinstance(value, tuple) else value


def reloadable(
    options: Options,
    shelf: Shelf,
    program: Program,
    facts: Mapping[str, Any],
    notify: Mapping[str, str],
) -> Reloadable:
    """Return how the server of *options* is reloaded."""
    return Reloadable(
        program,
        _obstacle(options, shelf.life),
        _shared,
        demands(options),
        facts,
        notify,
        shelf.life.finish,
    )


def _obstacle(options: Options, life: Life) -> str:
    """Return why there can be no reload; empty if there can."""
    if options.run is not None:
        return "the server ends with the command of --run, and is not reloaded"
    for chain in life.chains:
        if chain.one_process():
            return (
                f"{chain.name}: its clients are all served by one process, whose memory cannot be"
                " handed over: restart the server"
            )
    return ""


def _shared() -> list[list[Any]]:
    try:
        kept.demand_names()
    except ConfigError as error:
        raise StartupError(str(error)) from error
    return [list(piece) for piece in kept.made()]


def inherit(takeover: Takeover) -> None:
    """Let plugins have the shared state of the program before."""
    kept.inherit(Piece(*values) for values in takeover.message.shared)


def rehearse(life: Life) -> int:
    """Begin and end all that plugins have to do, as far as that is possible without clients.

    Raises `ConfigError` for what goes wrong in them; return the exit status.
    """
    try:
        life.get_ready()
        life.after_fork(lambda: None, -1)
        for chain in life.chains:
            life.begin(chain)
        life.cleanup()
    except (ConfigError, StartupError, OSError):
        raise
    except Exception as error:
        log.debug("the rehearsal failed:", exc_info=True)
        raise ConfigError(f"after_fork failed: {type(error).__name__}: {error}") from error
    finally:
        life.finish()
    return 0


def try_again(takeover: Takeover, program: Program, error: BaseException) -> int:
    """After it could not take over: start the program again, after a while.

    Return the exit status if the server is told to end instead.  Its workers end with it.
    """
    log.critical("the new program cannot take over, and will try again: %s", error)
    takeover.wait()
    if not takeover.was_stopped():
        message = takeover.message
        program.replace(message._replace(attempts=message.attempts + 1))
    return 1
