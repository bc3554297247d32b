"""The curl plugin writes to web servers: Apache takes parts, nginx does not."""

import errno
from concurrent.futures import ThreadPoolExecutor

from tests.support.apache import Apache
from tests.support.curl import MIB, opened
from tests.support.harness import (
    Server,
    need,
    output,
    refused,
)
from tests.support.nginx import Nginx
from tests.support.noise import CONTENT


def test_writing_to_apache() -> None:
    need("qemu-io")
    with Apache() as far:
        with Server("-n", "curl", far.url) as server:
            commands = ["write -P 1 0 512", f"write -P 2 {MIB} 1M", f"write -P 3 {3 * MIB} 512"]
            words = [word for command in commands for word in ("-c", command)]
            check = ["-c", "read -P 1 0 512", "-c", f"read -P 2 {MIB} 1M"]
            done = output("qemu-io", "-f", "raw", *words, *check, server.uri)
            assert "failed" not in done
            assert "error" not in server.log
        expected = bytearray(CONTENT)
        for value, offset, count in ((1, 0, 512), (2, MIB, MIB), (3, 3 * MIB, 512)):
            expected[offset : offset + count] = bytes([value]) * count
        assert far.disk.read_bytes() == expected
        with opened(far.url, read_only=False) as export, ThreadPoolExecutor(8) as pool:
            assert not export.can_multi_conn()
            data = memoryview(CONTENT)
            starts = range(0, len(CONTENT), 65536)
            list(pool.map(lambda at: export.pwrite(data[at : at + 65536], at, 0), starts))
        assert far.disk.read_bytes() == CONTENT


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
