"""What can go wrong with a plugin, by consequence, and what the log and the client are told of it.

A plugin raises `OSError` on purpose, and the client may know.  Whatever else it raises is a bug,
whose text is for the log only: it may hold what no client is to see.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from nbdfork.plugin import ConfigError

log = logging.getLogger(__name__)


class Refused(OSError):
    """The gate turned a request down before any plugin saw it: the client's mistake."""


class UnknownExport(Exception):
    """There is no export of the name the client asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no export {name!r}")


class ClientRefused(Exception):
    """The plugin does not want this client, and has said why."""


class PluginFailed(OSError):
    """A plugin has raised *bug*, which is no `OSError`.

    The client is told what kind of exception it was, and a reference.  Whoever makes this error
    logs it with the traceback, so that the reference leads there.
    """

    def __init__(self, bug: BaseException) -> None:
        number = errno.ENOMEM if isinstance(bug, MemoryError) else errno.EIO
        reference = os.urandom(3).hex()
        super().__init__(number, f"{type(bug).__name__} in the plugin (reference {reference})")


@contextmanager
def starting(layer: str, method: str) -> Iterator[None]:
    """Turn whatever goes wrong in a *method* while the server starts into a `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{layer}: {error}") from error
    except SystemExit as error:
        refuse_exit(error, f"{layer}: {method}")
    except Exception as error:
        log.debug("%s: %s: a bug of the plugin:", layer, method, exc_info=True)
        raise ConfigError(
            f"{layer}: {method} failed: {type(error).__name__}: {error} (-v tells where)"
        ) from error


def refuse_exit(error: SystemExit, caller: str) -> NoReturn:
    """Let no plugin end the program by `sys.exit`: that would be silent, and look like success.

    A signal that ends the program raises a class of its own, and is let through.
    """
    if type(error) is not SystemExit:
        raise error
    raise ConfigError(f"{caller} called sys.exit({error.code!r})") from error


def cause(error: BaseException) -> str:
    """Return what *error* says, for the log: with the file's name, and without the number.

    Bytes of a name that are not UTF-8 are escaped: not every log can take them.
    """
    text = str(error)
    # One that has a way of its own to be shown has more to say than to a client.
    has_own_way = type(error).__str__ is not OSError.__str__
    if isinstance(error, OSError) and error.strerror is not None and not has_own_way:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return text.encode(errors="backslashreplace").decode()


def told(error: OSError) -> str:
    """Return what a client may be told of *error*: what the plugin has chosen to say.

    That is not all that a library may have put into an exception of its own.
    """
    if error.strerror is not None:
        return error.strerror
    if type(error).__module__ == OSError.__module__:
        return str(error)
    return f"{type(error).__name__}: see the server's log"
