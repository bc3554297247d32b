"""The curl plugin: a file on a web server, or of another kind of server that libcurl knows.

Nothing is sent to the server before a client connects: only the recipe for connections is made
here, and each worker makes its own connections by it.
"""

import os
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from nbdfork.plugin import (
    ConfigError,
    Export,
    Needs,
    Parameter,
    Plugin,
    Secret,
    parse,
    read_password,
)

from .._link.timeout import SILENCE, seconds
from .header_script import HeaderScript

if TYPE_CHECKING:
    from .._web.transfer import Option
    from .handle import Recipe

PROTOCOLS = (
    *("dict", "file", "ftp", "ftps", "gopher", "http", "https", "imap", "imaps", "ldap", "ldaps"),
    *("mqtt", "pop3", "pop3s", "rtmp", "rtmpe", "rtmps", "rtmpt", "rtmpte", "rtmpts", "rtsp"),
    *("scp", "sftp", "smb", "smbs", "smtp", "smtps", "telnet", "tftp"),
)
"""The protocols that can be allowed (nbdkit-curl-plugin(1))."""

READABLE = ("http", "https", "ftp", "ftps", "sftp", "file")
"""The protocols by which libcurl can read a part of a file."""

IP_VERSIONS = ("any", "v4", "v6")

SSL_VERSIONS = {
    "default": "SSLVERSION_DEFAULT",
    "tlsv1": "SSLVERSION_TLSv1",
    "sslv2": "SSLVERSION_SSLv2",
    "sslv3": "SSLVERSION_SSLv3",
    "tlsv1.0": "SSLVERSION_TLSv1_0",
    "tlsv1.1": "SSLVERSION_TLSv1_1",
    "tlsv1.2": "SSLVERSION_TLSv1_2",
    "tlsv1.3": "SSLVERSION_TLSv1_3",
    "max-default": "SSLVERSION_MAX_DEFAULT",
    "max-tlsv1.0": "SSLVERSION_MAX_TLSv1_0",
    "max-tlsv1.1": "SSLVERSION_MAX_TLSv1_1",
    "max-tlsv1.2": "SSLVERSION_MAX_TLSv1_2",
    "max-tlsv1.3": "SSLVERSION_MAX_TLSv1_3",
}
"""Versions of TLS, and pycurl's names for them."""

HTTP_VERSIONS = {
    "none": "CURL_HTTP_VERSION_NONE",
    "1.0": "CURL_HTTP_VERSION_1_0",
    "1.1": "CURL_HTTP_VERSION_1_1",
    "2.0": "CURL_HTTP_VERSION_2_0",
    "2TLS": "CURL_HTTP_VERSION_2TLS",
    "2-prior-knowledge": "CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE",
    "3": "CURL_HTTP_VERSION_3",
    "3only": "CURL_HTTP_VERSION_3ONLY",
}
"""Versions of HTTP, and pycurl's names for them."""

_MAX_SECONDS = 2_000_000
"""The longest time that can be given: libcurl counts milliseconds in 32 bits."""

_SECRET = "|-|+FILENAME|-FD"


def _path_or_nothing(text: str) -> str:
    return parse.path(text) if text else ""


def _protocols(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"{name!r} is none of: {', '.join(PROTOCOLS)}")
    return names


class Curl(Plugin):
    """a file on a web server, or of another server that libcurl knows"""

    url = Parameter(str, required=True, magic=True, metavar="URL", help="the file to serve")
    user = Parameter(str, metavar="USER", help="the user to log in as")
    password = Secret(
        str, metavar=f"PASSWORD{_SECRET}", help="the user's password, or where to read it"
    )
    proxy = Parameter(str, metavar="PROXY", help="the proxy to go through")
    proxy_user = Parameter(str, metavar="USER", help="the user to log in to the proxy as")
    proxy_password = Secret(
        str, metavar=f"PASSWORD{_SECRET}", help="that user's password, or where to read it"
    )
    ipresolve = Parameter(
        parse.choice(*IP_VERSIONS),
        default="any",
        metavar="any|v4|v6",
        help="connect by this version of IP only",
    )
    resolve = Parameter(
        str, repeatable=True, metavar="HOST:PORT:ADDRESS", help="where this host is"
    )
    unix_socket_path = Parameter(
        parse.path, metavar="PATH", help="connect to this Unix domain socket instead"
    )
    protocols = Parameter(_protocols, metavar="PROTO,...", help="allow only these protocols")
    followlocation = Parameter(
        parse.boolean, default=True, metavar="true|false", help="follow redirects"
    )
    header = Secret[tuple[str, ...]](
        str, repeatable=True, metavar="HEADER", help="send this header (HTTP), or leave it out"
    )
    header_script = Parameter(str, metavar="SCRIPT", help="a shell script that prints headers")
    header_script_renew = Parameter(
        parse.whole(0, _MAX_SECONDS), metavar="SECONDS", help="run it again after this time"
    )
    cookie = Secret(str, metavar=f"COOKIE{_SECRET}", help="send these cookies (HTTP)")
    cookie_script = Parameter(str, metavar="SCRIPT", help="a shell script that prints cookies")
    cookie_script_renew = Parameter(
        parse.whole(0, _MAX_SECONDS), metavar="SECONDS", help="run it again after this time"
    )
    cookiefile = Parameter(
        _path_or_nothing, metavar="[FILENAME]", help="keep cookies; begin with those in a file"
    )
    cookiejar = Parameter(
        parse.path, metavar="FILENAME", help="keep cookies in a file, from client to client"
    )
    user_agent = Parameter(str, metavar="TEXT", help="the name to go by (HTTP)")
    http_version = Parameter(
        parse.choice(*HTTP_VERSIONS), metavar="VERSION", help="the version of HTTP"
    )
    sslverify = Parameter(
        parse.boolean, default=True, metavar="true|false", help="demand a valid certificate"
    )
    cainfo = Parameter(
        _path_or_nothing, metavar="[FILENAME]", help="the certificates to trust; none: no others"
    )
    capath = Parameter(parse.path, metavar="DIRECTORY", help="a directory of such certificates")
    proxy_cainfo = Parameter(
        parse.path, metavar="FILENAME", help="the certificates to trust of the proxy"
    )
    proxy_capath = Parameter(
        parse.path, metavar="DIRECTORY", help="a directory of certificates to trust of the proxy"
    )
    ssl_version = Parameter(
        parse.choice(*SSL_VERSIONS), metavar="VERSION", help="the oldest TLS to use"
    )
    ssl_cipher_list = Parameter(str, metavar="CIPHER:...", help="the ciphers up to TLS 1.2")
    tls13_ciphers = Parameter(str, metavar="CIPHER:...", help="the ciphers of TLS 1.3")
    timeout = Parameter(seconds, metavar="SECONDS", help="how long a request may take")
    tcp_keepalive = Parameter(
        parse.boolean, default=False, metavar="true|false", help="probe idle connections"
    )
    tcp_nodelay = Parameter(
        parse.boolean, default=True, metavar="true|false", help="send small packets at once"
    )
    connections = Parameter(
        parse.whole(1, 1024), default=16, metavar="N", help="connections for each client, at most"
    )
    debug_flags: Mapping[str, str] = {
        "scripts": "log the headers and cookies that scripts print",
        "verbose": "log what libcurl does",
    }

    def dump_plugin(self) -> Mapping[str, str]:
        try:
            info = _library().version_info()
        except ConfigError:
            return {}
        return {
            "curl_version": info[1],
            "curl_version_num": f"{info[2]:#x}",
            "curl_host": info[3],
            "curl_ssl_version": info[5] or "",
            "curl_libz_version": info[7] or "",
            "curl_protocols": " ".join(info[8]),
        }

    def silence(self) -> float:
        """Return for how many seconds the server may be silent."""
        return self.timeout or SILENCE

    def waits(self) -> bool:
        return True

    def config_complete(self) -> None:
        """Check what can be checked without the server, and read the secrets."""
        if not self.url:
            raise ConfigError("curl: url=: the URL of the file to serve is expected")
        if any(character <= " " for character in self.url):
            raise ConfigError("curl: url=: a URL has no spaces: write %20 for one")
        self._check_headers_and_cookies()
        if self.cainfo and not os.path.isfile(self.cainfo):
            raise ConfigError(f"curl: cainfo={self.cainfo}: there is no such file")
        if self.capath is not None and not os.path.isdir(self.capath):
            raise ConfigError(f"curl: capath={self.capath}: there is no such directory")
        self._secrets = {
            key: read_password(f"curl: {key}", text)
            for key, text in (
                ("password", self.password),
                ("proxy-password", self.proxy_password),
                ("cookie", self.cookie),
            )
            if text is not None
        }

    def _check_headers_and_cookies(self) -> None:
        if self.header and self.header_script is not None:
            raise ConfigError("curl: give either header= or header-script=")
        if self.cookie is not None and self.cookie_script is not None:
            raise ConfigError("curl: give either cookie= or cookie-script=")
        for key in ("header", "cookie"):
            script, renew = (getattr(self, f"{key}_script{more}") for more in ("", "_renew"))
            if script is None and renew is not None:
                raise ConfigError(f"curl: {key}-script-renew= needs {key}-script=")
        for line in self.header:
            # The header itself is not repeated: it may hold a password.
            if not (":" in line or line.endswith(";")) or "\n" in line or "\r" in line:
                raise ConfigError("curl: header=: write 'Name: value', 'Name:' or 'Name;'")
        if self.cookiefile and not os.path.isfile(self.cookiefile):
            raise ConfigError(f"curl: cookiefile={self.cookiefile}: there is no such file")
        if self.cookiejar and not os.path.isdir(os.path.dirname(self.cookiejar)):
            raise ConfigError(f"curl: cookiejar={self.cookiejar}: there is no such directory")
        if self.cookiejar and os.path.isdir(self.cookiejar):
            raise ConfigError(f"curl: cookiejar={self.cookiejar}: is a directory, not a file")

    def get_ready(self) -> None:
        """Make the recipe, and let libcurl check it."""
        self._scheme = self._checked_scheme(_library())
        from . import options  # imported late, because it needs pycurl

        found = options.options(self, self._secrets)
        options.check(found)
        self._recipe = self._make_recipe(tuple(found))

    def _checked_scheme(self, pycurl: ModuleType) -> str:
        """Return the URL's scheme, if files can be read by it and it is allowed."""
        from .._web.reply import scheme_of  # imported late, because it needs pycurl

        scheme = scheme_of(self.url) or "http"
        version = pycurl.version_info()
        if scheme not in READABLE:
            known = ", ".join(name for name in READABLE if name in version[8])
            raise ConfigError(
                f"curl: {scheme}:// has no way to read a part of a file; these have: {known}"
            )
        if scheme not in version[8]:
            known = ", ".join(version[8])
            raise ConfigError(f"curl: libcurl {version[1]} has no {scheme}://; it has: {known}")
        if self.protocols is not None and scheme not in self.protocols:
            raise ConfigError(f"curl: {scheme}:// is none of protocols={','.join(self.protocols)}")
        return scheme

    def _make_recipe(self, options: "tuple[Option, ...]") -> "Recipe":
        from .._web.reply import shown_url
        from .handle import Recipe

        return Recipe(
            url=self.url,
            shown=shown_url(self.url),
            options=options,
            headers=self.header,
            header_script=self._script("header", self.header_script, self.header_script_renew),
            cookie_script=self._script("cookie", self.cookie_script, self.cookie_script_renew),
            cookiefile=self.cookiefile,
            cookiejar=self.cookiejar,
            verbose=bool(self.debug["verbose"]),
        )

    def _script(self, what: str, text: str | None, renew: int | None) -> HeaderScript | None:
        if text is None:
            return None
        shown = bool(self.debug["scripts"])
        return HeaderScript(f"{what}-script", text, renew or 0, self.url, shown, self.silence())

    def needs(self) -> Needs:
        given = (self.cainfo, self.capath, self.cookiefile)
        read = {path for path in given if path}
        if self._scheme == "file":
            read.add(unquote(urlsplit(self.url).path))
        elif self._scheme == "sftp":
            read.add(os.path.expanduser("~/.ssh"))
        # libcurl writes another file, and gives it the name of the jar.
        write = {os.path.dirname(self.cookiejar)} if self.cookiejar else set()
        scripts = self.header_script is not None or self.cookie_script is not None
        return Needs(frozenset(read), frozenset(write), network=True, programs=scripts)

    def open(self, export_name: str, read_only: bool) -> Export:
        from .export import CurlExport, Terms

        is_http = self._scheme in ("http", "https")
        terms = Terms(self.connections, self.silence(), is_http, is_http and not read_only)
        return CurlExport(self._recipe, terms, self.server)


def _library() -> ModuleType:
    try:
        import pycurl
    except ImportError:
        message = 'the curl plugin needs pycurl: pip install "nbdfork[curl]"'
        raise ConfigError(message) from None
    module: ModuleType = pycurl
    return module
