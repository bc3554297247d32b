"""A real nginx of its own for tests: files over http and https, nothing outside its directory.

It listens on ports of the loopback address that are free, and on a Unix domain socket.  Its
certificate, for "localhost", is signed by a CA made with openssl.  It takes the place of a web
server that a user might have, and can be killed and started again.
"""

import base64
import hashlib
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from urllib.request import urlopen

from tests.support.harness import SECONDS, eventually, need, output
from tests.support.noise import CONTENT

PASSWORD = "se cret"
"""What "user" needs for /private/."""

CONFIG = """
daemon off;
worker_processes 1;
{user}
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {directory}/access.log combined;
    log_format headers '$request_method $status $http_range|$http_cookie|$http_authorization'
        '|$http_user_agent|$http_x_test|$connection|$server_protocol|$http_x_empty';
    access_log {directory}/headers.log headers;
    default_type application/octet-stream;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        listen unix:{directory}/http.sock;
        listen 127.0.0.1:{tls_port} ssl http2;
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        root {directory}/www;
        location /whole/ {{ alias {directory}/www/; max_ranges 0; }}
        location /moved/ {{ rewrite ^/moved/(.*) /$1 redirect; }}
        location /private/ {{
            alias {directory}/www/;
            auth_basic test;
            auth_basic_user_file {directory}/passwords;
        }}
        location /token/ {{
            alias {directory}/www/;
            if ($http_x_test != "good") {{ return 403; }}
        }}
        location /cookie/ {{
            alias {directory}/www/;
            if ($cookie_test != "good") {{ return 403; }}
        }}
        location /begin/ {{
            add_header Set-Cookie "test=good; Path=/; Max-Age=1000" always;
            rewrite ^/begin/(.*) /cookie/$1 redirect;
        }}
        location /busy/ {{ return 503; }}
        location /logged {{ access_log off; return 204; }}
    }}
}}
"""


class Nginx:
    """nginx in a temporary directory, with the files "disk" and "empty"; a context manager."""

    def __init__(self) -> None:
        need("nginx", "openssl")
        self.directory = Path(tempfile.mkdtemp(prefix="nbdfork-nginx"))
        self.directory.chmod(0o755)
        self.port, self.tls_port = free_ports(2)
        self.socket = self.directory / "http.sock"
        self.ca = self.directory / "ca.pem"
        self._process: subprocess.Popen[bytes] | None = None
        (self.directory / "www").mkdir()
        self.file("disk", CONTENT)
        self.file("empty", b"")
        make_certificates(self.directory)
        secret = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
        (self.directory / "passwords").write_text(f"user:{{SHA}}{secret}\n")
        user = "user root;" if self.directory.owner() == "root" else ""
        (self.directory / "nginx.conf").write_text(
            CONFIG.format(
                directory=self.directory, port=self.port, tls_port=self.tls_port, user=user
            )
        )

    @property
    def url(self) -> str:
        """Where files are found by http, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """Where files are found by https, for those who trust `ca`."""
        return f"https://localhost:{self.tls_port}"

    def file(self, name: str, content: bytes) -> Path:
        """Make a file that it serves, in one step."""
        path = self.directory / "www" / name
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.chmod(0o644)
        new.rename(path)
        return path

    def requests(self) -> list[str]:
        """Return what requests it has answered, a line each: see log_format."""
        # Each is logged after it was answered, but before the next one is looked at.
        urlopen(f"{self.url}/logged", timeout=SECONDS).close()
        return (self.directory / "headers.log").read_text().splitlines()

    def start(self) -> None:
        """Start it, and wait until it can be connected to."""
        self.socket.unlink(missing_ok=True)  # one that was killed leaves it behind
        self._process = subprocess.Popen(
            ["nginx", "-p", self.directory, "-c", self.directory / "nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "error.log").read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End it at once, connections and all (SIGTERM: "fast shutdown")."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(SECONDS)

    def __enter__(self) -> "Nginx":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def make_certificates(directory: Path) -> None:
    """Make ca.pem, and server.pem with server.key for "localhost", signed by it."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    output(
        *("openssl", "req", "-x509", *key, "-subj", "/CN=test CA"),
        *("-keyout", directory / "ca.key", "-out", directory / "ca.pem"),
    )
    output(
        *("openssl", "req", "-x509", *key, "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-CA", directory / "ca.pem", "-CAkey", directory / "ca.key"),
        *("-keyout", directory / "server.key", "-out", directory / "server.pem"),
    )
