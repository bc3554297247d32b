"""From the plugin's parameters to libcurl's options: which is which, and what libcurl refuses.

A handle is configured once, with all that does not change from request to request.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pycurl

from nbdfork.plugin import ConfigError

from . import HTTP_VERSIONS, SSL_VERSIONS

if TYPE_CHECKING:
    from . import Curl

_SAME = {
    "url": pycurl.URL,
    "user": pycurl.USERNAME,
    "password": pycurl.PASSWORD,
    "proxy": pycurl.PROXY,
    "proxy-user": pycurl.PROXYUSERNAME,
    "proxy-password": pycurl.PROXYPASSWORD,
    "unix-socket-path": pycurl.UNIX_SOCKET_PATH,
    "cookie": pycurl.COOKIE,
    "user-agent": pycurl.USERAGENT,
    "followlocation": pycurl.FOLLOWLOCATION,
    "cainfo": pycurl.CAINFO,
    "capath": pycurl.CAPATH,
    "ssl-cipher-list": pycurl.SSL_CIPHER_LIST,
    "tls13-ciphers": pycurl.TLS13_CIPHERS,
    "timeout": pycurl.TIMEOUT,
    "tcp-keepalive": pycurl.TCP_KEEPALIVE,
    "tcp-nodelay": pycurl.TCP_NODELAY,
}
"""Parameters whose values are libcurl's."""

_REDIRECT = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
"""Where a redirect may lead, unless `protocols` forbids it: to replies of the kind we check."""

_BUFFER = 512 * 1024
"""How much libcurl hands over at a time, at most (CURL_MAX_READ_SIZE is 10 MiB)."""

_STALLED = 300
"""After how many seconds without a byte a request has failed: as long as libcurl, by default,
tries to connect."""


class Option(NamedTuple):
    """An option of libcurl, its value (None: not the default either), and who asks for it."""

    number: int
    value: Any
    key: str = ""

    def set_on(self, curl: pycurl.Curl) -> None:
        """Set it.  Raises pycurl.error, or TypeError or ValueError for what pycurl refuses."""
        if self.value is None:
            curl.unsetopt(self.number)
        else:
            curl.setopt(self.number, self.value)


def options(plugin: "Curl", secrets: dict[str, str]) -> list[Option]:
    """Return the options that the parameters of *plugin* ask for, all of its handles alike.

    *secrets*: the values of those parameters that are read from elsewhere.
    """
    found = list(_always())
    values = {key: getattr(plugin, key.replace("-", "_")) for key in _SAME} | secrets
    for key, number in _SAME.items():
        value = values[key]
        if value is None:
            continue
        if isinstance(value, bool):
            value = int(value)
        elif isinstance(value, str):
            value = os.fsencode(value)
        found.append(Option(number, None if key == "cainfo" and not value else value, key))
    found.extend(_translated(plugin))
    return found


def _always() -> Iterator[Option]:
    yield Option(pycurl.NOSIGNAL, 1)  # there are threads
    yield Option(pycurl.DEFAULT_PROTOCOL, "http")
    yield Option(pycurl.USERAGENT, "")  # not pycurl's own
    yield Option(pycurl.BUFFERSIZE, _BUFFER)
    yield Option(pycurl.LOW_SPEED_LIMIT, 1)
    yield Option(pycurl.LOW_SPEED_TIME, _STALLED)
    yield Option(pycurl.REDIR_PROTOCOLS, _REDIRECT)


def _translated(plugin: "Curl") -> Iterator[Option]:
    if not plugin.sslverify:
        yield Option(pycurl.SSL_VERIFYPEER, 0, "sslverify")
        yield Option(pycurl.SSL_VERIFYHOST, 0, "sslverify")
    if plugin.ssl_version is not None:
        number = getattr(pycurl, SSL_VERSIONS[plugin.ssl_version])
        yield Option(pycurl.SSLVERSION, number, "ssl-version")
    if plugin.http_version is not None:
        number = getattr(pycurl, HTTP_VERSIONS[plugin.http_version])
        yield Option(pycurl.HTTP_VERSION, number, "http-version")
    if plugin.protocols is not None:
        allowed = 0
        for name in plugin.protocols:
            # pycurl has no name for the newest ones, all of which no disk can be read by.
            allowed |= getattr(pycurl, f"PROTO_{name.upper()}", 0)
        yield Option(pycurl.PROTOCOLS, allowed, "protocols")
        yield Option(pycurl.REDIR_PROTOCOLS, allowed & _REDIRECT, "protocols")


def check(options: list[Option]) -> None:
    """Try the options.  Raises `ConfigError` naming the parameter that libcurl refuses."""
    curl = pycurl.Curl()
    try:
        for option in options:
            try:
                option.set_on(curl)
            except (pycurl.error, TypeError, ValueError) as error:
                raise ConfigError(
                    f"curl: {option.key}=: libcurl {pycurl.version_info()[1]} refuses this value"
                ) from error
    finally:
        curl.close()
