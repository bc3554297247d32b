"""A real sshd of its own for tests, on a free port of the loopback address.

It lets in the user who runs the tests, by a key that is made for it, and serves SFTP.
"""

import getpass
import os
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.daemon import Daemon
from tests.support.harness import eventually, is_alive, need, output
from tests.support.noise import CONTENT
from tests.support.ports import free_ports

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
PidFile none
AuthorizedKeysFile {directory}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp {sftp}
"""


class Sshd(Daemon):
    """sshd in a temporary directory, with the file "disk".

    *sftp* is the subsystem: internal-sftp, with options of sftp-server(8).
    """

    def __init__(self, sftp: str = "internal-sftp") -> None:
        need("ssh", "ssh-keygen")
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        super().__init__()
        [self.port] = free_ports(1)
        self.where = self.port
        self.command = [program or "sshd", "-D", "-e", "-f", self.directory / "config"]
        self.key = self.directory / "key"
        self.known_hosts = self.directory / "known_hosts"
        for name in ("host", "key"):
            make_key(self.directory / name)
        kind, key, _ = (self.directory / "host.pub").read_text().split(" ", 2)
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        self.file("disk", CONTENT)
        (self.directory / "config").write_text(
            CONFIG.format(port=self.port, directory=self.directory, sftp=sftp)
        )

    @property
    def way(self) -> list[str]:
        """The parameters, of ours as of nbdkit's plugin, that lead to it."""
        return [
            *("host=127.0.0.1", f"port={self.port}", f"user={getpass.getuser()}", "config="),
            *(f"identity={self.key}", f"known-hosts={self.known_hosts}"),
        ]

    def file(self, name: str, content: bytes) -> Path:
        """Make a file that it serves."""
        path = self.directory / name
        path.write_bytes(content)
        return path

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        super().start()

    def sessions(self) -> list[psutil.Process]:
        """The processes that serve clients."""
        assert self.process is not None
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in found if is_alive(process)]

    def end_sessions(self) -> None:
        """Cut all clients off; new ones can come."""
        _kill(self.sessions())

    def stop(self) -> int:
        """End it, and cut all clients off."""
        sessions = self.sessions()
        status = super().stop()
        _kill(sessions)
        return status


def make_key(path: Path, passphrase: str = "") -> None:
    """Make the private key *path*, and *path*.pub."""
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            process.kill()
    eventually(lambda: not any(map(is_alive, processes)))
