"""The two names of the command, and what a user may rely on under each.

Called as `nbdkit`, by a symbolic link, it does what command lines written for nbdkit expect.  All
that differs is here: nothing else asks for the name, and what others need of it, they find in
`Options`.  The manual has it in COMPATIBILITY.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from nbdfork import __version__

NBDKIT_VERSION = "1.48.1"
"""The nbdkit whose command lines are taken, and which scripts are told they find."""

MANY = 4096
"""How many clients are served at once where nbdkit has no limit: each may cost a process."""


def _only_uri(uri: str) -> str:
    return uri


def _uri_and_commands(uri: str) -> str:
    import shlex

    quoted = shlex.quote(uri)
    return (
        f"{uri}\nShell-quoted URI: {quoted}\nCommand to query the NBD endpoint:\n  nbdinfo {quoted}"
    )


class Manners:
    """How the command behaves under one of its names.

    *program*: what it calls itself, in messages, for ps(1) and in the system's log.  *version*:
    what `--version` says.  *defaults*: those of `Options` that differ, by the names of the fields.
    *implies*: options that an option implies, by the names of their fields, if nothing is given
    that says otherwise.  *only_export*: whether `-e` names the one export that there is; else it is
    only what a client is told.  *plain_log*: whether lines on standard error begin with nothing but
    the program, once it serves, too.  *announcement*: what `--print-uri` prints.  *nbd_is_uri*:
    whether `$nbd` is the URI, for whatever client.  *configuration*: what `--dump-config` says
    differently.
    """

    def __init__(
        self,
        program: str,
        version: str,
        *,
        defaults: Mapping[str, Any] | None = None,
        implies: Mapping[str, str] | None = None,
        only_export: bool = True,
        plain_log: bool = False,
        announcement: Callable[[str], str] = _only_uri,
        nbd_is_uri: bool = False,
        configuration: Mapping[str, str] | None = None,
    ) -> None:
        self.program = program
        self.version = version
        self.defaults = defaults or {}
        self.implies = implies or {}
        self.only_export = only_export
        self.plain_log = plain_log
        self.announcement = announcement
        self.nbd_is_uri = nbd_is_uri
        self.configuration = configuration or {}

    def __repr__(self) -> str:
        return self.program.upper()


NBDFORK = Manners("nbdfork", __version__)

NBDKIT = Manners(
    "nbdkit",
    f"{NBDKIT_VERSION} (nbdfork {__version__})",
    defaults={
        "newstyle": True,
        "tls": "auto",  # on if there are certificates
        "handshake_limit": 0.0,
        "keepalive": False,
        "max_clients": MANY,
        "max_clients_per_address": 0,
    },
    implies={"run": "-U -"},
    only_export=False,
    plain_log=True,
    announcement=_uri_and_commands,
    nbd_is_uri=True,
    configuration={
        "name": "nbdkit",
        "root_tls_certificates_dir": "/etc/pki/nbdkit",
        "run_default_socket": "Unix",
        "version": NBDKIT_VERSION,
        "version_major": NBDKIT_VERSION.split(".")[0],
        "version_minor": NBDKIT_VERSION.split(".")[1],
    },
)


def of(command: str) -> Manners:
    """Return the manners of *command*, the path or name by which the program was called."""
    return NBDKIT if os.path.basename(command) == "nbdkit" else NBDFORK
