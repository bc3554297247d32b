"""A real FTP server of its own for tests, that of pyftpdlib."""

import sys

from tests.support.daemon import Daemon
from tests.support.harness import need_modules
from tests.support.nginx import PASSWORD
from tests.support.noise import CONTENT
from tests.support.ports import free_ports


class Ftp(Daemon):
    """An FTP server with the file "disk", for "user" with PASSWORD."""

    def __init__(self) -> None:
        need_modules("pyftpdlib")
        super().__init__()
        (self.directory / "disk").write_bytes(CONTENT)
        [port] = free_ports(1)
        self.where = port
        self.url = f"ftp://127.0.0.1:{port}"
        words = ["-i", "127.0.0.1", "-p", str(port), "-d", str(self.directory)]
        account = ["-u", "user", "-P", PASSWORD]
        self.command = [sys.executable, "-W", "ignore", "-m", "pyftpdlib", *words, *account]
