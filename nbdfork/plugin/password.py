"""A password, given as the tools of nbdkit have it: in itself, or by where to read it.

Errors are raised as `ConfigError` and do not repeat what was given: it may be the password.
"""

import os
import warnings

from nbdfork.plugin.errors import ConfigError


def read_password(text: str) -> str:
    """Return the password that *text* stands for.

    "-" asks on the terminal, "+FILE" and "-FD" read the first line of a file or of what is open
    as descriptor FD; anything else is the password itself (nbdkit-plugin(3), "Passwords").
    """
    try:
        if text == "-":
            return _ask()
        if text.startswith("+"):
            with open(text[1:], "rb") as file:
                return _first_line(file.readline())
        if text.startswith("-"):
            return _from_descriptor(text[1:])
    except OSError as error:
        raise ConfigError(f"password=: cannot read it: {error}") from error
    return text


def _ask() -> str:
    import getpass  # and all that it imports

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it could not hide the answer
            return getpass.getpass("password: ")
    except (EOFError, getpass.GetPassWarning):
        raise ConfigError(
            "password=-: there is no terminal to ask on; use password=+FILE"
        ) from None


def _from_descriptor(number: str) -> str:
    if not number.isdecimal() or int(number) <= 2:
        raise ConfigError(
            "password=-FD: FD is not the number of a file descriptor above 2; a password that"
            " begins with - or + must be read from a file: password=+FILE"
        )
    with os.fdopen(int(number), "rb") as file:
        return _first_line(file.readline())


def _first_line(line: bytes) -> str:
    return os.fsdecode(line.removesuffix(b"\n"))
