"""A real nginx of its own for tests: files over http and https, nothing outside its directory.

It listens on ports of the loopback address that are free, and on a Unix domain socket.  Its
certificate, for "localhost", is signed by a CA of its own.  It takes the place of a web
server that a user might have, and can be killed and started again.
"""

import base64
import hashlib
from pathlib import Path
from urllib.request import urlopen

from tests.support.daemon import Daemon
from tests.support.harness import SECONDS, need
from tests.support.noise import CONTENT
from tests.support.pki import Authority
from tests.support.ports import free_ports

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
        ssl_certificate {directory}/pki/server-cert.pem;
        ssl_certificate_key {directory}/pki/server-key.pem;
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


class Nginx(Daemon):
    """nginx in a temporary directory, with the files "disk" and "empty"."""

    def __init__(self) -> None:
        need("nginx")
        super().__init__()
        self.directory.chmod(0o755)
        self.command = ["nginx", "-p", self.directory, "-c", self.directory / "nginx.conf"]
        self.port, self.tls_port = free_ports(2)
        self.where = self.port
        self.socket = self.directory / "http.sock"
        self.ca = Authority(self.directory / "pki").certificate
        (self.directory / "www").mkdir()
        self.file("disk", CONTENT)
        self.file("empty", b"")
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

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)  # one that was killed leaves it behind
        super().start()

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
