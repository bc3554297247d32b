"""What every worker may read, whatever disk it serves: what Python and the C library are made of.

Most modules are imported before the fork, but some by a function that needs them, and the C
library loads parts of itself when they are first asked for.  None of it is secret, or anybody's.
"""

import os
import sys
from collections.abc import Iterator

_OF_THE_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"),
    *("/dev/random", "/dev/urandom"),
)

_OF_THE_NETWORK = (
    # How names become addresses.
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"),
    *("/etc/services", "/etc/protocols", "/etc/networks", "/etc/passwd", "/etc/group"),
    *("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf"),
    # Who is trusted.
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf"),
    *("/etc/pki/ca-trust", "/etc/crypto-policies", "/etc/gnutls"),
    *("/var/lib/ca-certificates", "/proc/sys/crypto"),
)

_TRUST_VARIABLES = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"),
    *("RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES"),
)
"""Of the environment: where else those files are."""

DEVICES = ("/dev/null", "/dev/zero")
"""Devices that may be written, too."""


def paths(*, network: bool) -> list[str]:
    """Return what may be read, with all that is below it; none is below another."""
    wanted = [*_OF_THE_SYSTEM, *_of_python()]
    if network:
        wanted += [*_OF_THE_NETWORK, *(os.environ.get(name, "") for name in _TRUST_VARIABLES)]
    found: set[str] = set()
    for path in sorted(set(wanted), key=len):
        if os.path.isabs(path) and found.isdisjoint(_and_above(path)):
            found.add(os.path.realpath(path))
    return sorted(path for path in found if found.isdisjoint([*_and_above(path)][1:]))


def _of_python() -> Iterator[str]:
    """Yield where modules are looked for, and the files of those that came from elsewhere."""
    yield from (os.path.join(prefix, "lib") for prefix in {sys.prefix, sys.base_prefix})
    # Without the first one, which is where the program was started, or the script is.
    yield from sys.path[0 if sys.flags.safe_path else 1 :]
    for module in list(sys.modules.values()):
        yield from map(str, getattr(module, "__path__", ()))
        yield getattr(module, "__file__", None) or ""


def _and_above(path: str) -> Iterator[str]:
    """Yield *path*, and each directory that it is in."""
    yield path
    while path != (parent := os.path.dirname(path)):
        yield parent
        path = parent
