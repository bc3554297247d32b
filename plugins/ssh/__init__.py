"""The ssh plugin: a file on an SSH server, by SFTP.

When a client connects, ssh(1) of OpenSSH makes a connection for it, and takes care of host keys,
agents, certificates, jump hosts and everything else.  Through it, `sftp` speaks to the server.
"""

import math
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from functools import partial

from nbdfork.plugin import (
    ConfigError,
    Export,
    Needs,
    Parameter,
    Plugin,
    Secret,
    SharedCounter,
    SharedLock,
    parse,
    read_password,
)

from .._link.timeout import SILENCE, Patience, some_seconds
from .command import Recipe
from .export import NewFile, SshExport

_PRIVATE = 0o600


def _filename(text: str) -> str:
    """Parse a file name; ssh expands a "%" in it, and a "~" at its beginning."""
    if any(character in text for character in '"\n'):
        raise ValueError('ssh takes no file name with " in it')
    return text if text.startswith(("%", "~")) else parse.path(text)


def _config(text: str) -> str:
    return parse.path(text) if text else ""


def _port(text: str) -> int:
    if text.isascii() and text.isdecimal():
        return parse.whole(1, 65535)(text)
    try:
        return socket.getservbyname(text, "tcp")
    except OSError:
        raise ValueError("there is no service of this name: write a number") from None


def _mode(text: str) -> int:
    if not re.fullmatch("(0o?)?[0-7]{1,4}", text):
        raise ValueError("expected permissions as an octal number, such as 0600")
    return int(text.removeprefix("0o"), 8)


class Ssh(Plugin):
    """a file on an SSH server"""

    host = Parameter(str, required=True, metavar="HOST", help="the server's name or address")
    path = Parameter(str, required=True, magic=True, metavar="PATH", help="the file there")
    port = Parameter(_port, metavar="PORT", help="the port (default: ssh's, 22)")
    user = Parameter(str, metavar="USER", help="the user to log in as (default: ssh's)")
    password = Secret(
        str, metavar="PASSWORD|-|+FILENAME|-FD", help="that user's password, or where to read it"
    )
    config_file = Parameter(
        _config,
        key="config",
        metavar="[FILENAME]",
        help="the configuration for ssh (default: ssh's own)",
    )
    known_hosts = Parameter(_filename, metavar="FILENAME", help="where the host's key is known")
    identity = Parameter(
        _filename, repeatable=True, metavar="FILENAME", help="a private key to log in with"
    )
    timeout = Parameter(
        some_seconds, default=SILENCE, metavar="SECONDS", help="how long the far end may be silent"
    )
    verify_remote_host = Parameter(
        parse.boolean, default=True, metavar="true|false", help="check the host's key"
    )
    compression = Parameter(
        parse.boolean, default=False, metavar="true|false", help="compress what is sent"
    )
    create = Parameter(
        parse.boolean, default=False, metavar="true|false", help="make the file, empty"
    )
    create_mode = Parameter(
        _mode, metavar="MODE", help="the permissions of a file that is made (default: 0600)"
    )
    create_size = Parameter(parse.size, metavar="SIZE", help="the size of a file that is made")
    debug_flags: Mapping[str, str] = {"log": "log what ssh does; 2 and 3 log more"}

    def dump_plugin(self) -> Mapping[str, str]:
        ssh = shutil.which("ssh")
        if ssh is None:
            return {}
        said = subprocess.run([ssh, "-V"], capture_output=True, text=True, check=False).stderr
        return {"ssh_version": said.strip()}

    def waits(self) -> bool:
        return True

    def config_complete(self) -> None:
        """Check what can be checked without the server, and read the password."""
        for key, value in (("host", self.host), ("path", self.path), ("user", self.user)):
            if value == "" or "\0" in (value or ""):
                raise ConfigError(f"ssh: {key}=: a name is expected")
        if self.create != (self.create_size is not None):
            raise ConfigError("ssh: give both or none of create=true and create-size=SIZE")
        for key, names in (("config", [self.config_file]), ("identity", self.identity)):
            for name in names:
                if name and "%" not in name and name[0] != "~" and not os.path.exists(name):
                    raise ConfigError(f"ssh: {key}={name}: there is no such file")
        self._password = None
        if self.password is not None:
            self._password = read_password("ssh: password", self.password)

    def get_ready(self) -> None:
        ssh = shutil.which("ssh")
        if ssh is None:
            raise ConfigError("the ssh plugin needs ssh(1): install openssh-client")
        options = self._options()
        # -G prints the settings that ssh takes from options and configuration, or their mistakes.
        done = subprocess.run(
            [ssh, *options, "-G", "--", self.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            said = ": ".join(line.strip() for line in done.stderr.splitlines()) or "it says nothing"
            raise ConfigError(f"ssh: ssh(1) refuses these parameters, or its configuration: {said}")
        words = [ssh, *options, *self._verbosity(), "-s", "--", self.host, "sftp"]
        self._recipe = Recipe(words, self._password, self.host)
        self._creating = SharedLock(name="creating")
        self._created = SharedCounter(name="created")

    def _options(self) -> list[str]:
        """Return options for ssh; they take precedence over its configuration."""
        settings = {
            # As for sftp(1): nothing but SFTP, and no questions.
            "BatchMode": "no" if self._password is not None else "yes",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "NumberOfPasswordPrompts": "1",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "RequestTTY": "no",
            "Compression": "yes" if self.compression else "no",
            "ConnectTimeout": str(math.ceil(self.timeout)),
            "ServerAliveInterval": str(max(1, int(self.timeout) // 2)),
            "ServerAliveCountMax": "1",
            "StrictHostKeyChecking": "yes" if self.verify_remote_host else "no",
        }
        if not self.verify_remote_host:
            # Otherwise ssh would not send a password to a host whose key has changed.
            settings |= dict.fromkeys(("UserKnownHostsFile", "GlobalKnownHostsFile"), "/dev/null")
        elif self.known_hosts is not None:
            settings["UserKnownHostsFile"] = f'"{self.known_hosts}"'
        found = [f"-o{key}={value}" for key, value in settings.items()]
        found += [f'-oIdentityFile="{name}"' for name in self.identity]
        if self.config_file is not None:
            found += ["-F", self.config_file or "none"]
        if self.port is not None:
            found += ["-p", str(self.port)]
        return found + (["-l", self.user] if self.user is not None else [])

    def _verbosity(self) -> list[str]:
        level = min(self.debug["log"], 3)
        return ["-" + "v" * level] if level else ["-oLogLevel=ERROR"]

    def needs(self) -> Needs:
        return Needs(network=True, programs=True)

    def open(self, export_name: str, read_only: bool) -> Export:
        patience = Patience(self.server.wait, self.timeout)
        path = os.fsencode(self.path)
        make = partial(SshExport, self._recipe, path, patience, read_only=read_only)
        if not self.create:
            return make()
        with self._creating:
            if self._created.value:
                return make()
            mode = self.create_mode
            export = make(new=NewFile(self.create_size or 0, _PRIVATE if mode is None else mode))
            self._created.add()
            return export
