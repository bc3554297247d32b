"""Landlock: which files, TCP ports and processes this one can still reach; see landlock(7).

A ruleset refuses all that it handles but for what its rules allow.  Once enforced it stays, for the
thread that enforced it and all that it starts; a further one can only take more away.
"""

import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from functools import reduce
from operator import or_

from nbdfork.server.sandbox import calls

# linux/landlock.h
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_FILE_SYSTEM = (
    ("execute", 1),
    ("write_file", 1),
    ("read_file", 1),
    ("read_dir", 1),
    ("remove_dir", 1),
    ("remove_file", 1),
    ("make_char", 1),
    ("make_dir", 1),
    ("make_reg", 1),
    ("make_sock", 1),
    ("make_fifo", 1),
    ("make_block", 1),
    ("make_sym", 1),
    ("refer", 2),
    ("truncate", 3),
    ("ioctl_dev", 5),
)
"""The rights, by their bits, and the version of Landlock that each came with."""

_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_NETWORK_VERSION = 4
_SCOPE_VERSION = 6

_RULE = struct.Struct("=Qi")  # struct landlock_path_beneath_attr

_OF_FILES = frozenset({"execute", "write_file", "read_file", "truncate", "ioctl_dev"})

READ = frozenset({"read_file", "read_dir"})
READ_DEVICE = READ | {"ioctl_dev"}
CHANGE = frozenset(
    {
        *READ_DEVICE,
        "write_file",
        "truncate",
        "refer",
        *("make_reg", "make_dir", "make_sym", "make_fifo", "make_sock"),
        *("remove_file", "remove_dir"),
    }
)
READ_AND_WRITE = frozenset({"read_file", "write_file"})
"""Sets of rights: to read; to read, also of a device; to change in all ways but by making devices;
to read and write only."""


def version() -> int:
    """Return the version of Landlock's interface; 0 if this kernel has none, or not enabled."""
    with suppress(OSError):
        return calls.call("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    return 0


def scopes() -> bool:
    """Return whether signals, and sockets in the abstract namespace, can be held back."""
    return version() >= _SCOPE_VERSION


class Ruleset:
    """What is still allowed once `enforce` is called.

    *files*: only files that a rule allows.  *network*: neither TCP connections nor listening.
    *signals*: none to processes outside.  *sockets*: none in the abstract namespace of processes
    outside.  Nor, with any of these, can those be traced.  What the kernel's version does not know
    is left out.
    """

    def __init__(
        self,
        *,
        files: bool = False,
        network: bool = False,
        signals: bool = False,
        sockets: bool = False,
    ) -> None:
        known = version()
        bits = {name: 1 << n for n, (name, since) in enumerate(_FILE_SYSTEM) if known >= since}
        self._bits = bits if files else {}
        handled = [reduce(or_, self._bits.values(), 0)]
        if known >= _NETWORK_VERSION:
            handled.append((_BIND_TCP | _CONNECT_TCP) * network)
        if known >= _SCOPE_VERSION:
            handled.append(_SCOPE_ABSTRACT_SOCKETS * sockets | _SCOPE_SIGNALS * signals)
        self._attribute = struct.pack(f"={len(handled)}Q", *handled)
        self._is_empty = not any(handled)
        self._rules: list[tuple[str, int, int]] = []  # path, what is allowed, and if it is a file
        self._fd = -1
        self._found: dict[str, tuple[int, int] | None] = {}  # where the paths led that may change

    def allow(self, path: str, rights: Iterable[str], *, may_change: bool = False) -> None:
        """Allow *rights* to the file *path*, or to all that is below that directory.

        *may_change*: it is to be what is there when the rules are enforced.
        """
        if may_change:
            self._found[path] = None
        allowed = self._sum(rights)
        self._rules.append((path, allowed, allowed & self._sum(_OF_FILES)))

    def _sum(self, rights: Iterable[str]) -> int:
        return reduce(or_, (self._bits.get(right, 0) for right in rights), 0)

    def fix(self) -> None:
        """Look up the paths now, for all processes that are forked from here; or again, if those
        that may change lead elsewhere.  Raises OSError.
        """
        if self._is_empty or (self._fd >= 0 and not self._has_changed()):
            return
        self._forget()
        self._found = {path: _identity(path) for path in self._found}  # before they are opened
        self._fd = self._made()

    def _has_changed(self) -> bool:
        # The rules keep the numbers of deleted files from being given to others.
        return any(_identity(path) != found for path, found in self._found.items())

    def _forget(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def enforce(self) -> None:
        """Refuse all else from now on, to this thread.  Needs no_new_privs.  Raises OSError."""
        if self._is_empty:
            return
        if self._has_changed():
            self._forget()
        fd = self._made() if self._fd < 0 else self._fd
        self._fd = -1
        try:
            calls.call("landlock_restrict_self", fd, 0)
        finally:
            os.close(fd)

    def _made(self) -> int:
        """Return a descriptor of the rules.

        A path that is not there, or cannot be reached, has none: there is nothing to be allowed.
        """
        fd = calls.call("landlock_create_ruleset", self._attribute, len(self._attribute), 0)
        try:
            for path, allowed, if_file in self._rules:
                with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    self._add(fd, path, allowed, if_file)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _add(self, ruleset: int, path: str, allowed: int, if_file: int) -> None:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_directory = stat.S_ISDIR(os.fstat(file).st_mode)
            rule = _RULE.pack(allowed if is_directory else if_file, file)
            calls.call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(file)


def _identity(path: str) -> tuple[int, int] | None:
    """Return the numbers of the file that *path* leads to; None if it cannot be found out."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
