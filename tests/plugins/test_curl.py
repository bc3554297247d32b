"""The curl plugin against real servers (nginx, sshd, an FTP server), side by side with nbdkit's."""

import contextlib
import errno
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.curl import MIB, opened, plugin, reads
from tests.support.ftp import Ftp
from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    need,
    output,
    refused,
    run,
)
from tests.support.libnbd import connected, fails
from tests.support.nginx import PASSWORD, Nginx
from tests.support.noise import CONTENT
from tests.support.sshd import Sshd

# -- nginx ---------------------------------------------------------------------------------------


def ways(web: Nginx) -> dict[str, list[str]]:
    return {
        "http": [f"{web.url}/disk"],
        "https": [f"{web.tls_url}/disk", f"cainfo={web.ca}"],
        "unverified": [f"{web.tls_url}/disk", "sslverify=false"],
        "redirected": [f"{web.url}/moved/disk"],
        "unix": ["http://localhost/disk", f"unix-socket-path={web.socket}"],
        "user": [f"{web.url}/private/disk", "user=user", f"password={PASSWORD}"],
        "file": [f"file://{web.directory}/www/disk"],
        "empty": [f"{web.url}/empty"],
    }


@pytest.mark.parametrize(
    "way", ["http", "https", "unverified", "redirected", "unix", "user", "file", "empty"]
)
def test_the_same_bytes_as_nbdkit(web: Nginx, way: str, tmp_path: Path) -> None:
    need("nbdkit", "nbdcopy")
    for name, command in {"nbdkit": ["nbdkit"], "nbdfork": NBDFORK}.items():
        copy = f'nbdcopy "$uri" {tmp_path}/{name}'
        output(*command, "-r", "-U", "-", "curl", *ways(web)[way], "--run", copy)
    assert (tmp_path / "nbdkit").read_bytes() == (b"" if way == "empty" else CONTENT)
    assert (tmp_path / "nbdfork").read_bytes() == (tmp_path / "nbdkit").read_bytes()


def test_any_range(web: Nginx) -> None:
    size = len(CONTENT)
    with opened(f"{web.url}/disk") as export:
        for offset, count in [(0, 1), (511, 3), (1, 2 * MIB), (0, size), (size - 1, 1)]:
            assert bytes(export.pread(count, offset)) == CONTENT[offset : offset + count]


def test_one_connection_for_one_request_at_a_time(web: Nginx) -> None:
    before = len(web.requests())
    with opened(f"{web.url}/disk") as export:
        for number in range(20):
            export.pread(512, number * 512)
    assert len({line.split("|")[5] for line in web.requests()[before:]}) == 1


def test_no_more_connections_than_allowed(web: Nginx) -> None:
    before = len(web.requests())
    assert plugin(f"{web.url}/disk").waits()
    with opened(f"{web.url}/disk", "connections=3") as export:
        with ThreadPoolExecutor(16) as pool:
            read = list(pool.map(lambda n: bytes(export.pread(1000, n * 1000)), range(300)))
    assert b"".join(read) == CONTENT[: 300 * 1000]
    assert len({line.split("|")[5] for line in web.requests()[before:]}) == 3


def test_many_requests_of_a_client_are_under_way_at_once(web: Nginx) -> None:
    before = len(web.requests())
    with Server("-n", "curl", f"{web.url}/disk") as server:
        need("nbdcopy")
        copy = "--requests=16", "--connections=1", "--request-size=32768"
        output("nbdcopy", *copy, server.uri, "null:")
    assert len({line.split("|")[5] for line in web.requests()[before:]}) > 2


def test_what_a_server_does_not_have_or_give(web: Nginx) -> None:
    with refused(errno.ENOENT, "/none: the server says 404 Not Found"):
        reads(f"{web.url}/none")
    with refused(errno.EACCES, "401 Unauthorized; give user= and password="):
        reads(f"{web.url}/private/disk")
    with refused(errno.EACCES, "401 Unauthorized"):
        reads(f"{web.url}/private/disk", "user=user", "password=wrong")
    with refused(errno.EOPNOTSUPP, "only sends the whole file"):
        reads(f"{web.url}/whole/disk")
    with refused(errno.EIO, "503 Service Unavailable"):
        reads(f"{web.url}/busy/disk")
    with refused(errno.EIO, "302 Found, a redirect to http://.*/disk, is not followed"):
        reads(f"{web.url}/moved/disk", "followlocation=false")
    with refused(errno.EACCES, "cainfo= names the certificates to trust"):
        reads(f"{web.tls_url}/disk")
    with refused(errno.EACCES, "cainfo="):
        reads(f"{web.tls_url}/disk", "cainfo=")


def test_a_client_is_told_that_there_is_no_such_file(web: Nginx) -> None:
    need("nbdinfo")
    with Server("-n", "curl", f"{web.url}/none") as server:
        assert run("nbdinfo", server.uri).returncode != 0
    with Server("-n", "curl", f"{web.url}/whole/disk") as server:
        done = run("nbdinfo", server.uri)
        assert "only sends the whole file" in server.log
        assert done.returncode != 0


def last(web: Nginx) -> dict[str, str]:
    """Return what the last request had, by the names of nginx's log_format."""
    names = ("range", "cookie", "authorization", "agent", "test", "connection", "http", "empty")
    line = web.requests()[-1]
    return dict(zip(names, line.split(" ", 2)[2].split("|"), strict=True))


def test_headers(web: Nginx) -> None:
    url = f"{web.url}/disk"
    assert reads(url)
    assert last(web) | {"connection": ""} == {
        "range": f"bytes={MIB + 1}-{MIB + 4096}",
        **dict.fromkeys(("cookie", "authorization", "agent", "test", "empty"), "-"),
        "connection": "",
        "http": "HTTP/1.1",
    }
    assert reads(url, "user-agent=me/1", "cookie=a=1; b=2", "header=X-Test: t", "header=X-Empty;")
    found = last(web)
    assert (found["agent"], found["cookie"], found["test"]) == ("me/1", "a=1; b=2", "t")
    assert reads(url, "user-agent=me/1", "header=User-Agent:")
    assert last(web)["agent"] == "-"


def test_versions_of_http_and_tls(web: Nginx) -> None:
    ca = f"cainfo={web.ca}"
    assert reads(f"{web.url}/disk", "http-version=1.0")
    assert last(web)["http"] == "HTTP/1.0"
    assert reads(f"{web.tls_url}/disk", ca)
    assert last(web)["http"] == "HTTP/2.0"
    assert reads(f"{web.tls_url}/disk", ca, "http-version=1.1", "ssl-version=tlsv1.3")
    assert last(web)["http"] == "HTTP/1.1"
    name = "TLS_CHACHA20_POLY1305_SHA256"
    assert reads(f"{web.tls_url}/disk", ca, "ssl-version=tlsv1.3", f"tls13-ciphers={name}")
    assert reads(f"{web.tls_url}/disk", ca, "ssl-version=tlsv1.2", "ssl-cipher-list=ECDHE+AESGCM")
    with refused(errno.EIO, "cipher"):
        reads(f"{web.tls_url}/disk", ca, "tls13-ciphers=none", "ssl-cipher-list=none")


def test_a_directory_of_certificates(web: Nginx, tmp_path: Path) -> None:
    shutil.copy(web.ca, tmp_path)
    output("openssl", "rehash", tmp_path)
    assert reads(f"{web.tls_url}/disk", f"capath={tmp_path}")


def test_a_header_script_is_run_again(web: Nginx, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f"""echo "$iteration $url" >>{log}
        printf 'X-Test: %s\\n' "$(test "$iteration" = 1 && echo good || echo old)" """
    url = f"{web.url}/disk"
    with opened(url, f"header-script={script}") as export:
        export.pread(1, 0)
        export.pread(1, 0)
    assert log.read_text() == f"0 {url}\n"
    assert last(web)["test"] == "old"
    with opened(url, f"header-script={script}", "header-script-renew=1") as export:
        deadline = time.monotonic() + SECONDS
        while last(web)["test"] != "good":
            assert time.monotonic() < deadline
            export.pread(1, 0)
    assert log.read_text().endswith(f"1 {url}\n")


def test_a_script_that_fails(web: Nginx, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    script = f"header-script=test ! -e {broken} && echo 'X-Test: good'"
    broken.touch()
    with refused(errno.EIO, "the header-script failed: exit status 1"):
        reads(f"{web.url}/token/disk", script)
    broken.unlink()
    assert reads(f"{web.url}/token/disk", script)


def test_cookies(web: Nginx, tmp_path: Path) -> None:
    url = f"{web.url}/cookie/disk"
    with refused(errno.EACCES, "403 Forbidden"):
        reads(url)
    assert reads(url, "cookie=test=good")
    assert reads(url, "cookie-script=echo test=good; echo nobody reads this")
    (tmp_path / "cookie").write_text("test=good\n")
    assert reads(url, f"cookie=+{tmp_path}/cookie")
    file = tmp_path / "file"
    file.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\ttest\tgood\n")
    assert reads(url, f"cookiefile={file}")


def test_cookies_that_a_redirect_brings(web: Nginx, tmp_path: Path) -> None:
    url, jar = f"{web.url}/begin/disk", tmp_path / "jar"
    with refused(errno.EACCES, "403 Forbidden"):
        reads(url)
    assert reads(url, "cookiefile=")
    assert reads(url, f"cookiejar={jar}")
    assert "\ttest\tgood\n" in jar.read_text()
    with opened(f"{web.url}/cookie/disk", f"cookiejar={jar}") as export:
        with ThreadPoolExecutor(8) as pool:  # all of its connections know them
            assert all(
                pool.map(lambda n: bytes(export.pread(1, n)) == CONTENT[n : n + 1], range(64))
            )
    assert "\ttest\tgood\n" in jar.read_text()


def test_settings_of_the_connection(web: Nginx) -> None:
    def settings(*arguments: str) -> tuple[bool, bool]:
        before = {connection.fd for connection in psutil.Process().net_connections("tcp4")}
        with opened(f"{web.url}/disk", *arguments):
            for connection in psutil.Process().net_connections("tcp4"):
                is_new = connection.fd not in before
                if is_new and connection.raddr and connection.raddr.port == web.port:
                    with socket.socket(fileno=os.dup(connection.fd)) as found:
                        keepalive = found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                        nodelay = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                        return keepalive != 0, nodelay != 0
        raise AssertionError("there is no connection")

    assert settings() == (False, True)
    assert settings("tcp-keepalive=true", "tcp-nodelay=false") == (True, False)


def test_the_bridge_between_worker_and_far_end_is_not_inherited(web: Nginx) -> None:
    """What is made before the fork has no connection."""
    made: Any = plugin(f"{web.url}/disk")
    ports = [c.raddr.port for c in psutil.Process().net_connections("tcp4") if c.raddr]
    assert web.port not in ports
    with (
        contextlib.closing(made.open("", True)) as first,
        contextlib.closing(made.open("", True)) as second,
    ):
        assert bytes(first.pread(9, 9)) == bytes(second.pread(9, 9)) == CONTENT[9:18]


# -- the far end goes away, and comes back -------------------------------------------------------


def test_nginx_dies_and_comes_back() -> None:
    with Nginx() as web:
        with Server("-n", "-v", "curl", f"{web.url}/disk") as server:
            with connected(server.uri) as client:
                assert client.pread(512, 0) == CONTENT[:512]
                web.stop()
                with fails("EIO"):
                    client.pread(512, 0)
                web.start()
                assert client.pread(MIB, 512) == CONTENT[512 : MIB + 512]
                # Stopped and started between two reads, and in the middle of one.
                web.stop()
                web.start()
                assert client.pread(512, MIB) == CONTENT[MIB : MIB + 512]
                web.stop()
                back = threading.Timer(0.5, web.start)
                back.start()
                assert client.pread(512, MIB) == CONTENT[MIB : MIB + 512]
                back.join()
            log = server.log
    assert "trying again in 0.1 s" in log


def test_a_file_that_is_replaced(web: Nginx) -> None:
    web.file("changing", CONTENT)
    with opened(f"{web.url}/changing") as export:
        assert bytes(export.pread(512, 0)) == CONTENT[:512]
        path = web.file("changing", CONTENT[::-1])
        os.utime(path, (1, 1))
        with refused(errno.EIO, "/changing: the file has changed: its ETag was .* and is .*"):
            export.pread(512, 0)
        web.file("changing", CONTENT[:MIB])
        with refused(errno.EIO, f"its size was {len(CONTENT)} bytes and is {MIB}"):
            export.pread(512, 0)
        with refused(errno.EIO, f"its size was {len(CONTENT)} bytes and is {MIB}"):
            export.pread(512, 2 * MIB)


# -- other servers -------------------------------------------------------------------------------


def test_sftp(tmp_path: Path) -> None:
    need("nbdcopy")
    keys = tmp_path / ".ssh"
    keys.mkdir()
    with Sshd() as sshd:
        for name in ("key", "key.pub"):  # where libcurl looks for them, whatever their kind
            shutil.copy(sshd.directory / name, keys / name.replace("key", "id_rsa"))
        url = f"sftp://127.0.0.1:{sshd.port}{sshd.file('disk', CONTENT)}"
        user = f"user={psutil.Process().username()}"
        with Server("-n", "curl", url, user, environment={"HOME": str(tmp_path)}) as server:
            output("nbdcopy", server.uri, tmp_path / "copy")
            assert '"is_read_only": true' in output("nbdinfo", "--json", server.uri)
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_ftp() -> None:
    with Ftp() as far:
        assert reads(f"{far.url}/disk", "user=user", f"password={PASSWORD}")
        with refused(errno.EACCES, "denied"):
            reads(f"{far.url}/disk", "user=user", "password=wrong")
        with refused(errno.ENOENT, "/none: "):
            reads(f"{far.url}/none", "user=user", f"password={PASSWORD}")
