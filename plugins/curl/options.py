"""From the plugin's parameters to libcurl's options, and which values libcurl refuses.

These are the options that stay the same from request to request.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pycurl

from nbdfork.plugin import ConfigError

from . import HTTP_VERSIONS, SSL_VERSIONS

if TYPE_CHECKING:
    from . import Curl

_DIRECT = {
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
"""Parameters whose values are passed to libcurl as they are."""

_REDIRECT = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
"""Where redirects may lead, unless protocols= forbids it: to replies that can be checked."""

_BUFFER_SIZE = 512 * 1024
"""The most bytes that libcurl passes on at a time (CURL_MAX_READ_SIZE is 10 MiB)."""

_STALL_SECONDS = 300
"""How long nothing may come before a request fails: libcurl's default for connecting."""


class Option(NamedTuple):
    """An option of libcurl, its value (None: unset it), and the parameter that asks for it."""

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
    """Return the options that the parameters of *plugin* ask for.

    *secrets*: the values of the parameters that were read from elsewhere.
    """
    found = list(_always())
    values = {key: getattr(plugin, key.replace("-", "_")) for key in _DIRECT} | secrets
    for key, number in _DIRECT.items():
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
    yield Option(pycurl.BUFFERSIZE, _BUFFER_SIZE)
    yield Option(pycurl.LOW_SPEED_LIMIT, 1)
    yield Option(pycurl.LOW_SPEED_TIME, _STALL_SECONDS)
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
            # pycurl has no names for the newest protocols, by which no disk can be read anyway.
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
