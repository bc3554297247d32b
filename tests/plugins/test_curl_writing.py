"""The curl plugin writes to web servers: Apache takes parts, nginx does not."""

import errno
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.support.curl import MIB, opened
from tests.support.harness import (
    SECONDS,
    Server,
    eventually,
    need,
    output,
    refused,
)
from tests.support.nginx import Nginx, free_ports
from tests.support.noise import CONTENT

APACHE = """
ServerRoot {directory}
PidFile {directory}/pid
ServerName localhost
Listen 127.0.0.1:{port}
ErrorLog {directory}/error.log
{identity}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dav_module /usr/lib/apache2/modules/mod_dav.so
LoadModule dav_fs_module /usr/lib/apache2/modules/mod_dav_fs.so
DavLockDB {directory}/lock
DocumentRoot {directory}/www
Mutex file:{directory}
<Directory {directory}/www>
Dav on
</Directory>
"""


@contextmanager
def apache() -> Iterator[tuple[str, Path]]:
    """Apache with WebDAV, which takes parts: yields the URL of a disk, and its file."""
    need("apache2")
    with tempfile.TemporaryDirectory(prefix="nbdfork-apache") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "www").mkdir()
        disk = directory / "www" / "disk"
        disk.write_bytes(CONTENT)
        [port] = free_ports(1)
        identity = ""
        if os.geteuid() == 0:
            identity = "User nobody\nGroup nogroup"
            for path in (directory, directory / "www", disk):
                shutil.chown(path, "nobody")
        config = APACHE.format(directory=directory, port=port, identity=identity)
        (directory / "conf").write_text(config)
        with (directory / "log").open("wb") as log:
            words = ["apache2", "-DFOREGROUND", "-f", str(directory / "conf")]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            eventually(lambda: process.poll() is not None or answers(port))
            assert process.poll() is None, (directory / "log").read_text()
            yield f"http://127.0.0.1:{port}/disk", disk
        finally:
            process.terminate()
            process.wait(SECONDS)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_writing_to_apache() -> None:
    need("qemu-io")
    with apache() as (url, disk):
        with Server("-n", "curl", url) as server:
            commands = ["write -P 1 0 512", f"write -P 2 {MIB} 1M", f"write -P 3 {3 * MIB} 512"]
            words = [word for command in commands for word in ("-c", command)]
            check = ["-c", "read -P 1 0 512", "-c", f"read -P 2 {MIB} 1M"]
            done = output("qemu-io", "-f", "raw", *words, *check, server.uri)
            assert "failed" not in done
            assert "error" not in server.log
        expected = bytearray(CONTENT)
        for value, offset, count in ((1, 0, 512), (2, MIB, MIB), (3, 3 * MIB, 512)):
            expected[offset : offset + count] = bytes([value]) * count
        assert disk.read_bytes() == expected
        with opened(url, read_only=False) as export, ThreadPoolExecutor(8) as pool:
            assert not export.can_multi_conn()
            data = memoryview(CONTENT)
            starts = range(0, len(CONTENT), 65536)
            list(pool.map(lambda at: export.pwrite(data[at : at + 65536], at, 0), starts))
        assert disk.read_bytes() == CONTENT


def test_a_server_that_does_not_take_parts(web: Nginx) -> None:
    data = memoryview(bytes(512))
    with opened(f"{web.url}/disk", read_only=False) as export:
        with refused(errno.EACCES, "405 Not Allowed|405 Method Not Allowed"):
            export.pwrite(data, 512, 0)


def test_read_only(web: Nginx) -> None:
    with opened(f"{web.url}/disk") as export:
        assert not export.can_write()
        assert export.can_multi_conn()
    with opened(f"file://{web.directory}/www/disk", read_only=False) as export:
        assert not export.can_write()
