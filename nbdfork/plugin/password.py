"""Passwords and cookies, given in themselves or by where to read them.

What is read here is never part of a message: errors name the key, and where it was looked for.
"""

import os

from nbdfork.plugin.errors import ConfigError

_MOST = 64 * 1024
"""The longest secret, in bytes: somebody who names a device by mistake is told."""


def read_password(key: str, text: str) -> str:
    """Return what *text*, the value of *key*, stands for (nbdkit-plugin(3), "PASSWORDS").

    "-" asks on the terminal, or takes a line of standard input; "+FILE" and "-FD" take the first
    line of a file, or of what is open as descriptor FD; all else is the secret itself.  Raises
    `ConfigError`.
    """
    try:
        if text == "-":
            return _from_standard_input(key)
        if text.startswith("+"):
            with open(text[1:], "rb") as file:
                return _decoded(key, file.readline(_MOST + 1))
        if text.startswith("-"):
            return _decoded(key, _line_of(_descriptor(key, text[1:])))
    except (OSError, EOFError) as error:
        raise ConfigError(f"{key}=: cannot read it: {error}") from error
    return text


def _from_standard_input(key: str) -> str:
    if os.isatty(0):
        import getpass  # and all that it imports

        return getpass.getpass(f"{key}: ")
    line = _line_of(0)
    if not line:
        raise ConfigError(f"{key}=-: there is nothing on standard input; use +FILE")
    return _decoded(key, line)


def _descriptor(key: str, number: str) -> int:
    if not (number.isascii() and number.isdecimal() and int(number) > 2):
        raise ConfigError(
            f"{key}=-FD: FD must be the number of a file descriptor above 2; a value that"
            f" begins with - or + must be read from a file: +FILE"
        )
    return int(number)


def _line_of(fd: int) -> bytes:
    """Read a line and not a byte more: the rest is for whoever inherits the descriptor."""
    line = bytearray()
    while len(line) <= _MOST and (byte := os.read(fd, 1)):
        line += byte
        if byte == b"\n":
            break
    return bytes(line)


def _decoded(key: str, line: bytes) -> str:
    if len(line) > _MOST:
        raise ConfigError(f"{key}=: its first line is longer than {_MOST} bytes")
    return os.fsdecode(line.removesuffix(b"\n"))
