"""From the plugin's parameters to libcurl's options, and which values libcurl refuses.

These are the options that stay the same from request to request.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pycurl

from nbdfork.plugin import ConfigError

from .._web.transfer import Option, always
from . import HTTP_VERSIONS, SSL_VERSIONS

if TYPE_CHECKING:
    from . import Curl

_DIRECT = {
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
    "proxy-cainfo": pycurl.PROXY_CAINFO,
    "proxy-capath": pycurl.PROXY_CAPATH,
    "ssl-cipher-list": pycurl.SSL_CIPHER_LIST,
    "tls13-ciphers": pycurl.TLS13_CIPHERS,
    "tcp-keepalive": pycurl.TCP_KEEPALIVE,
    "tcp-nodelay": pycurl.TCP_NODELAY,
}
"""Parameters whose values are passed to libcurl as they are."""

_REDIRECT = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
"""Where redirects may lead, unless protocols= forbids it: to replies that can be checked."""


def options(plugin: "Curl", secrets: dict[str, str]) -> list[Option]:
    """Return the options that the parameters of *plugin* ask for.

    *secrets*: the values of the parameters that were read from elsewhere.
    """
    found = always(plugin.silence())
    found.append(Option(pycurl.DEFAULT_PROTOCOL, "http"))
    found.append(Option(pycurl.REDIR_PROTOCOLS, _REDIRECT))
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


def _translated(plugin: "Curl") -> Iterator[Option]:
    yield Option(pycurl.URL, os.fsencode(plugin.url), "url")
    if plugin.timeout:
        yield Option(pycurl.TIMEOUT_MS, max(1, round(plugin.timeout * 1000)), "timeout")
    if not plugin.sslverify:
        yield Option(pycurl.SSL_VERIFYPEER, 0, "sslverify")
        yield Option(pycurl.SSL_VERIFYHOST, 0, "sslverify")
    if plugin.ssl_version is not None:
        number = getattr(pycurl, SSL_VERSIONS[plugin.ssl_version])
        yield Option(pycurl.SSLVERSION, number, "ssl-version")
    if plugin.ipresolve != "any":
        number = getattr(pycurl, f"IPRESOLVE_{plugin.ipresolve.upper()}")
        yield Option(pycurl.IPRESOLVE, number, "ipresolve")
    if plugin.resolve:
        yield Option(pycurl.RESOLVE, list(plugin.resolve), "resolve")
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
