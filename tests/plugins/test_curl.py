"""The curl plugin against real servers (nginx, Apache, sshd, an FTP server), side by side with
nbdkit's, and against servers that misbehave as no real one would.
"""

import contextlib
import errno
import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdfork.plugin import ConfigError
from tests.support import plugins
from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    eventually,
    is_alive,
    nbdfork,
    need,
    output,
    refused,
    run,
    title,
)
from tests.support.libnbd import connected, fails
from tests.support.nginx import Nginx, free_ports
from tests.support.sshd import Sshd

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB + 512)
PASSWORD = "se cret"

if importlib.util.find_spec("pycurl") is None and not os.environ.get("NBDFORK_CI"):
    pytest.skip("not installed: pycurl", allow_module_level=True)

from nbdfork.plugins.curl.reply import scheme_of, shown_url  # noqa: E402 - it needs pycurl

plugin = partial(plugins.plugin, "curl")
opened = partial(plugins.opening, "curl")


@pytest.fixture(scope="module")
def web() -> Iterator[Nginx]:
    with Nginx() as web:
        web.file("disk", CONTENT)
        web.file("empty", b"")
        yield web


def reads(*arguments: str | Path) -> bool:
    """Return whether the right bytes come at these arguments; raise what goes wrong."""
    with opened(*arguments) as export:
        assert export.get_size() == len(CONTENT)
        return bytes(export.pread(4096, MIB + 1)) == CONTENT[MIB + 1 : MIB + 4097]


# -- nginx ------------------------------------------------------------------------------------


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


# -- the far end goes away, and comes back ----------------------------------------------------


def test_nginx_dies_and_comes_back() -> None:
    with Nginx() as web:
        web.file("disk", CONTENT)
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


# -- servers that misbehave -------------------------------------------------------------------


class Rogue(BaseHTTPRequestHandler):
    """A request to a `Misbehaving` server."""

    protocol_version = "HTTP/1.1"
    server: "Misbehaving"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a reply; *headers* are those beyond Content-Length, "_" for "-"."""
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("Content_Length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def part(self) -> tuple[int, int]:
        """Return the first and last byte that the client asks for."""
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), int(last)

    def send_part(self, **headers: str) -> None:
        """Send the part asked for, as it should be but for *headers*."""
        first, last = self.part()
        span = {"Content_Range": f"bytes {first}-{last}/{len(CONTENT)}"}
        self.reply(206, CONTENT[first : last + 1], **(span | headers))

    def do_HEAD(self) -> None:
        self.server.head(self)

    def do_GET(self) -> None:
        with self.server.counting:
            self.server.gets += 1
        self.server.get(self)

    def do_PUT(self) -> None:
        self.server.put(self, self.rfile.read(int(self.headers["Content-Length"])))


Answer = Callable[[Rogue], None]


class Misbehaving(ThreadingHTTPServer):
    """A web server that answers GET as it is told to; a context manager."""

    daemon_threads = True

    def __init__(self, get: Answer, head: Answer | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Rogue)
        self.url = f"http://127.0.0.1:{self.server_port}/disk"
        self.get = get
        self.head = head or good_head
        self.gets = 0
        self.counting = threading.Lock()
        self.written: list[tuple[str, bytes]] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def put(self, request: Rogue, body: bytes) -> None:
        self.written.append((request.headers["Content-Range"], body))
        request.reply(204)

    def handle_error(self, *_: object) -> None:
        pass  # clients that go away are expected

    def __enter__(self) -> "Misbehaving":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def good_head(request: Rogue) -> None:
    request.reply(200, CONTENT, Accept_Ranges="bytes")


def first_times(count: int, bad: Answer) -> Answer:
    """Return an answer that is *bad* the first *count* times, and good afterwards."""
    return lambda request: (
        bad(request) if request.server.gets <= count else Rogue.send_part(request)
    )


def cut_off(request: Rogue) -> None:
    """Promise a part, send half of it, and reset the connection."""
    first, last = request.part()
    span = f"bytes {first}-{last}/{len(CONTENT)}"
    half = CONTENT[first : (first + last) // 2]
    request.reply(206, half, Content_Length=str(last - first + 1), Content_Range=span)
    option = b"\1\0\0\0\0\0\0\0"  # linger for no time: reset
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
    request.close_connection = True


@pytest.mark.parametrize(
    "bad",
    [
        cut_off,
        lambda request: request.connection.shutdown(socket.SHUT_RDWR),
        lambda request: request.reply(503),
        lambda request: request.reply(500, b"an error page that is longer than the part" * 99),
    ],
    ids=["cut-off", "no-reply", "503", "500"],
)
def test_a_failure_that_passes(bad: Answer) -> None:
    with Misbehaving(first_times(2, bad)) as server:
        assert reads(server.url)
        assert server.gets == 3


def test_a_failure_that_does_not_pass() -> None:
    with Misbehaving(lambda request: request.reply(503)) as server, opened(server.url) as export:
        with refused(errno.EIO, "503 Service Unavailable"):
            export.pread(512, 0)
        assert server.gets == 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda request: request.reply(200, CONTENT), "sends the whole file when asked for a part"),
        (lambda request: request.reply(206, bytes(4096)), "does not say which part it sent"),
        (
            lambda request: request.send_part(Content_Range=f"bytes 0-4095/{len(CONTENT)}"),
            f"the server sent 4096 bytes at 0, not 4096 at {MIB + 1}",
        ),
        (
            lambda request: request.send_part(Content_Range="bytes 0-99/*"),
            f"the server sent 100 bytes at 0, not 4096 at {MIB + 1}",
        ),
        (lambda request: request.reply(404), "the server says 404 Not Found"),
        (lambda request: request.reply(999), "the server says 999"),
    ],
    ids=["whole", "unnamed", "elsewhere", "less", "404", "999"],
)
def test_a_reply_that_is_not_what_was_asked_for(bad: Answer, message: str) -> None:
    with Misbehaving(bad) as server, pytest.raises(OSError, match=message):
        reads(server.url)


def test_a_part_that_is_longer_than_it_says() -> None:
    def too_much(request: Rogue) -> None:
        first, last = request.part()
        span = f"bytes {first}-{last}/{len(CONTENT)}"
        request.reply(206, CONTENT[first : last + 2], Content_Range=span)

    with Misbehaving(first_times(1, too_much)) as server:
        assert reads(server.url)
    with Misbehaving(too_much) as server, refused(errno.EIO, "the reply is not the"):
        reads(server.url)


def test_a_version_that_changes_between_reads() -> None:
    def versions(request: Rogue) -> None:
        request.send_part(ETag='"a"' if request.server.gets < 3 else '"b"')

    def head(request: Rogue) -> None:
        request.reply(200, CONTENT, Accept_Ranges="bytes", ETag='"a"')

    with Misbehaving(versions, head) as server, opened(server.url) as export:
        for _ in range(2):
            assert bytes(export.pread(99, 7)) == CONTENT[7:106]
        with refused(errno.EIO, 'its ETag was "a" and is "b"'):
            export.pread(99, 7)


def test_a_server_without_head() -> None:
    with Misbehaving(Rogue.send_part, lambda request: request.reply(405)) as server:
        assert reads(server.url)
        assert server.gets == 2


def test_a_server_that_does_not_tell_the_size() -> None:
    def get(request: Rogue) -> None:
        request.send_part(Content_Range="bytes 0-0/*")

    with Misbehaving(get, lambda request: request.reply(405)) as server:
        with refused(errno.EIO, "does not tell the file's size"):
            reads(server.url)


def test_a_server_that_is_too_slow() -> None:
    done = threading.Event()

    def wait(_: Rogue) -> None:
        done.wait(SECONDS)

    with Misbehaving(wait) as server:
        with opened(server.url, "timeout=1") as export:
            with refused(errno.ETIMEDOUT, "timed out"):
                export.pread(1, 0)
        done.set()


def test_a_proxy() -> None:
    seen: list[str | None] = []

    def get(request: Rogue) -> None:
        seen.extend((request.path, request.headers["Proxy-Authorization"]))
        request.send_part()

    with Misbehaving(get) as server:
        proxy = f"proxy=http://127.0.0.1:{server.server_port}"
        assert reads("http://far.invalid/disk", proxy, "proxy-user=u", "proxy-password=p")
    assert seen == ["http://far.invalid/disk", "Basic dTpw"]


# -- writing ----------------------------------------------------------------------------------


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
    """Whether it says so, or takes a part for the whole."""
    data = memoryview(bytes(512))
    with opened(f"{web.url}/disk", read_only=False) as export:
        with refused(errno.EACCES, "405 Not Allowed|405 Method Not Allowed"):
            export.pwrite(data, 512, 0)
    with Misbehaving(Rogue.send_part) as server:

        def now_short(request: Rogue) -> None:
            size = len(server.written[-1][1]) if server.written else len(CONTENT)
            request.reply(200, bytes(size), Accept_Ranges="bytes")

        server.head = now_short
        with opened(server.url, read_only=False) as export:
            with refused(errno.EIO, "the server took 512 bytes for the whole file.*use -r"):
                export.pwrite(data, 512, 0)
        assert server.written == [(f"bytes 512-1023/{len(CONTENT)}", bytes(512))]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_write_that_is_redirected(status: int) -> None:
    """After 303, libcurl only looks at the other place, which is no write."""

    def put(request: Rogue, body: bytes) -> None:
        if request.path == "/disk":
            request.reply(status, Location="/other")
        else:
            server.written.append((request.path, body))
            request.reply(204)

    def get(request: Rogue) -> None:
        request.send_part() if "Range" in request.headers else request.reply(200, b"log in, please")

    with Misbehaving(get) as server:
        server.put = put  # type: ignore[method-assign]
        with opened(server.url, read_only=False) as export:
            data = memoryview(os.urandom(512))
            if status == 303:
                with refused(errno.EIO, "redirects the write to where nothing can be"):
                    export.pwrite(data, 512, 0)
                assert bytes(export.pread(512, 512)) == CONTENT[512:1024]  # the client goes on
            else:
                export.pwrite(data, 512, 0)
        assert server.written == ([] if status == 303 else [("/other", bytes(data))])


def test_read_only(web: Nginx) -> None:
    with opened(f"{web.url}/disk") as export:
        assert not export.can_write()
        assert export.can_multi_conn()
    with opened(f"file://{web.directory}/www/disk", read_only=False) as export:
        assert not export.can_write()


# -- other servers ----------------------------------------------------------------------------


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


def test_ftp(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyftpdlib") is None and not os.environ.get("NBDFORK_CI"):
        pytest.skip("not installed: pyftpdlib")
    (tmp_path / "disk").write_bytes(CONTENT)
    [port] = free_ports(1)
    words = ["-i", "127.0.0.1", "-p", str(port), "-d", str(tmp_path), "-u", "user", "-P", PASSWORD]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "pyftpdlib", *words], stderr=subprocess.DEVNULL
    )
    url = f"ftp://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(port))
        assert reads(f"{url}/disk", "user=user", f"password={PASSWORD}")
        with refused(errno.EACCES, "denied"):
            reads(f"{url}/disk", "user=user", "password=wrong")
        with refused(errno.ENOENT, "/none: "):
            reads(f"{url}/none", "user=user", f"password={PASSWORD}")
    finally:
        process.terminate()
        process.wait(SECONDS)


# -- secrets ----------------------------------------------------------------------------------


def test_where_passwords_are_read_from(web: Nginx, tmp_path: Path) -> None:
    need("nbdinfo")
    (tmp_path / "password").write_text(f"{PASSWORD}\nanother line\n")
    size = 'nbdinfo --size "$uri"'
    words = ["-U", "-", "curl", f"{web.url}/private/disk", "user=user"]
    done = output(*NBDFORK, *words, f"password=+{tmp_path}/password", "--run", size)
    assert done == f"{len(CONTENT)}\n"
    rest = f"{size}; cat"  # what comes after the line is not ours
    done = output(*NBDFORK, *words, "password=-", "--run", rest, input=f"{PASSWORD}\nrest\n")
    assert done == f"{len(CONTENT)}\nrest\n"
    with (tmp_path / "password").open() as file:
        fd = os.dup(file.fileno())
        try:
            done = output(*NBDFORK, *words, f"password=-{fd}", "--run", size, pass_fds=[fd])
        finally:
            os.close(fd)
    assert done == f"{len(CONTENT)}\n"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_secrets_are_not_shown(web: Nginx, version: str) -> None:
    need("nbdinfo")
    secrets = {"password": "pa55word", "cookie": "c=c00kie", "header": "X-Test: t0ken"}
    words = [f"{key}={value}" for key, value in secrets.items()]
    url = web.url if version == "HTTP/1.1" else web.tls_url
    url = f"{url.replace('://', '://own:0wn%40@')}/private/disk?key=k3y?k3y"
    words += [url, f"cainfo={web.ca}", "user=user"]
    with Server("-n", "-v", "-D", "curl.verbose=1", "curl", *words) as server:
        assert run("nbdinfo", server.uri).returncode != 0
        log = server.log
        titles = [title(worker) for worker in server.workers() if is_alive(worker)]
    assert "401 Unauthorized; give user= and password=" in log
    assert f"debug: curl: > HEAD /private/disk?(not shown) {version}\n" in log
    for name in ("X-Test", "Cookie", "Authorization"):
        shown = f"debug: curl: > {name}: (not shown)\n"
        assert shown.lower() in log.lower()  # HTTP/2 has small letters
    assert "dXNlcjpw" not in log  # the beginning of user:p, in base64
    for secret in ("pa55word", "c00kie", "t0ken", "0wn", "k3y"):
        assert secret not in log
    for secret in ("pa55word", "c00kie", "t0ken"):  # those in a URL are the user's to hide
        assert not any(secret in shown for shown in titles)


@pytest.mark.parametrize(
    ("url", "shown", "scheme"),
    [
        ("http://user:p@ss@host:80/path?k3y#k3y", "http://host:80/path", "http"),
        ("HTTP:/user:pass@host", "HTTP:/host", "http"),
        ("user:pass@host/path@path", "host/path@path", ""),
        ("user:pass@host", "host", ""),
        ("host/path?k3y=http://other", "host/path", ""),
        ("//user:pass@host/path", "//host/path", ""),
        ("file:/path", "file:/path", "file"),
        ("file:///path", "file:///path", "file"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str, scheme: str) -> None:
    assert (shown_url(url), scheme_of(url)) == (shown, scheme)


def test_what_scripts_print_is_logged_on_demand(
    web: Nginx, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    words = [f"{web.url}/disk", "header-script=echo X-Test: a", "cookie-script=echo b=c"]
    plugin(*words).open("", True).close()
    assert "X-Test: a" not in caplog.text
    plugin(*words, debug="scripts").open("", True).close()
    assert "header-script: X-Test: a" in caplog.text
    assert "cookie-script: b=c" in caplog.text


# -- what is wrong at the start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "parameter url=URL is required"),
        ("url=", "url=: the URL of the file to serve is expected"),
        ("http://h/a b", "url=: a URL has no spaces: write %20 for one"),
        ("scp://h/d", "scp:// has no way to read a part of a file; these have: http, https, "),
        ("nonsense://h/d", "nonsense:// has no way to read a part"),
        ("http://h/d protocols=https,sftp", "http:// is none of protocols=https,sftp"),
        ("http://h/d protocols=nonsense", "'nonsense' is none of: dict, file, ftp"),
        ("http://h/d header=A:b header-script=x", "either header= or header-script="),
        ("http://h/d cookie=a=b cookie-script=x", "either cookie= or cookie-script="),
        ("http://h/d header-script-renew=1", "header-script-renew= needs header-script="),
        ("http://h/d cookie-script-renew=1", "cookie-script-renew= needs cookie-script="),
        ("http://h/d header=nonsense", "header=: write 'Name: value', 'Name:' or 'Name;'"),
        ("http://h/d cookiefile=/none", "cookiefile=/none: there is no such file"),
        ("http://h/d cookiejar=/none/jar", "cookiejar=/none/jar: there is no such directory"),
        ("http://h/d cookiejar=/tmp", "cookiejar=/tmp: is a directory, not a file"),
        ("http://h/d ssl-version=sslv3", "ssl-version=: libcurl .* refuses this value"),
        ("http://h/d password=+/none", "password=: cannot read it: .*'/none'"),
        ("http://h/d password=-x", "FD must be the number of a file descriptor above 2"),
        ("http://h/d password=-99999", "password=: cannot read it: .*Bad file descriptor"),
        ("http://h/d connections=0", "expected a whole number from 1 to 1024"),
        ("http://h/d cainfo=/none", "cainfo=/none: there is no such file"),
        ("http://h/d capath=/none", "capath=/none: there is no such directory"),
    ],
)
def test_bad_parameters(arguments: str, message: str) -> None:
    words = arguments.replace("a b", "a\tb").split(" ") if arguments else []
    with pytest.raises(ConfigError, match=message) as caught:
        plugin(*words)
    assert "\n" not in str(caught.value)


def test_no_standard_input_to_read_a_password_from() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:  # it is the client's
        done = nbdfork("-s", "curl", "http://h/d", "password=-", stdin=theirs)
    nothing = nbdfork("curl", "http://h/d", "password=-", stdin=subprocess.DEVNULL)
    for refusal in (done, nothing):
        assert refusal.returncode == 1
        message = "password=-: there is nothing on standard input; use +FILE"
        assert refusal.stderr == f"nbdfork: error: curl: {message}\n"


def without(module: str, directory: Path) -> Mapping[str, str]:
    (directory / f"{module}.py").write_text("raise ImportError\n")
    return {**os.environ, "PYTHONPATH": str(directory)}


def test_without_pycurl(tmp_path: Path) -> None:
    environment = without("pycurl", tmp_path)
    done = nbdfork("-U", "-", "curl", "http://localhost/disk", env=environment)
    assert done.returncode == 1
    assert done.stderr == (
        'nbdfork: error: the curl plugin needs pycurl: pip install "nbdfork[curl]"\n'
    )
    assert "name=curl\n" in output(*NBDFORK, "--dump-plugin", "curl", env=environment)


def test_dump_plugin_tells_of_libcurl() -> None:
    import pycurl

    shown = output(*NBDFORK, "--dump-plugin", "curl")
    assert f"curl_version={pycurl.version_info()[1]}\n" in shown
    assert " http https " in shown


def test_a_redirect_to_another_kind_of_server() -> None:
    def elsewhere(request: Rogue) -> None:
        request.reply(302, Location="ftp://127.0.0.1/disk")

    with Misbehaving(elsewhere, elsewhere) as server, refused(errno.EIO, '"ftp" is disabled'):
        reads(server.url)


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
