"""What the server proves itself by, and its clients themselves: certificates, or keys, from files.

They are read once, before the server gives up its privileges.  See nbdkit-tls(1), whose names for
the files these are.
"""

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbdfork.protocol.tls import Tls
from nbdfork.server.errors import StartupError

log = logging.getLogger(__name__)

CA = "ca-cert.pem"
REVOKED = "ca-crl.pem"
CERTIFICATE = "server-cert.pem"
KEY = "server-key.pem"

ROOT_DIRECTORY = "/etc/pki"
"""Where the folder with certificates is, named for the program, if it is started by root."""

_CIPHERS_FOR_KEYS = (
    "ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256"
)
"""For TLS 1.2: those with forward secrecy, so that a key that becomes known does not open what was
recorded before.  OpenSSL has no ECDHE-PSK with AES-GCM.  Those of TLS 1.3 all have it."""

_SHORTEST_KEY = 16
"""In bytes.  A key as short as a password can be guessed by anyone who recorded a handshake."""


def load(
    *,
    certificates: str | None = None,
    psk: str | None = None,
    verify_peer: bool = False,
    required: bool = False,
    priority: str | None = None,
    program: str = "nbdfork",
) -> Tls:
    """Return TLS by the keys in the file *psk*, or else by the folder *certificates*.

    *certificates* None is a folder of *program* that is looked for.  *verify_peer*: clients need a
    certificate, too.  *required*: clients must use TLS.  *priority*: a priority string of GnuTLS.
    Raises `StartupError`.
    """
    if psk is not None:
        context = _by_keys(psk)
        if certificates is not None:
            log.warning("--tls-psk: clients need a key; those with a certificate do not get in")
    else:
        context = _by_certificates(certificates or _find_certificates(program), verify_peer)
        if verify_peer and not required:
            log.warning(
                "--tls-verify-peer without --tls=require: a client that does not use TLS gets in"
                " without a certificate"
            )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if priority is not None:
        _prioritize(context, priority)
    if path := os.environ.get("SSLKEYLOGFILE"):
        with _naming_key_log(path):
            context.keylog_filename = path
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could demand it without end
    context.num_tickets = 0  # clients do not come back to a worker
    return Tls(context, required)


@contextmanager
def _naming_key_log(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(f"SSLKEYLOGFILE={path}: {error.strerror or error}") from error


# -- versions and ciphers -------------------------------------------------------------------

_VERSIONS = {
    "VERS-TLS1.2": ssl.OP_NO_TLSv1_2,
    "VERS-TLS1.3": ssl.OP_NO_TLSv1_3,
    "VERS-TLS1.0": ssl.Options(0),  # which are never agreed on
    "VERS-TLS1.1": ssl.Options(0),
    "VERS-SSL3.0": ssl.Options(0),
}
_ALL = ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
_FIRST = ("NORMAL", "SECURE128", "PFS")
"""Those that OpenSSL's default fulfils: ciphers of 128 bits and more, and forward secrecy first."""


def _prioritize(context: ssl.SSLContext, priority: str) -> None:
    """Set what a priority string says, as far as OpenSSL can tell the difference."""
    first, *others = priority.split(":")
    if first not in _FIRST:
        raise _no_priority(priority, first)
    if first == "PFS":
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20")
    for word in others:
        sign, name = word[:1], word[1:]
        option = _ALL if name == "VERS-ALL" else _VERSIONS.get(name)
        if option is None or sign not in ("+", "-", "!"):
            raise _no_priority(priority, word)
        if sign == "+":
            context.options &= ~option
        else:
            context.options |= option
    if context.options & _ALL == _ALL:
        raise StartupError(f"--tls-priority {priority}: this leaves no version of TLS")


def _no_priority(priority: str, word: str) -> StartupError:
    return StartupError(
        f"--tls-priority {priority}: {word!r} is for GnuTLS alone; OpenSSL, by which the server"
        f" speaks, knows {', '.join(_FIRST)}, and + or - {', '.join(_VERSIONS)} and VERS-ALL"
    )


# -- certificates ---------------------------------------------------------------------------


def certificate_directories(program: str = "nbdfork") -> list[str]:
    """Return where certificates are looked for unless the user says where they are."""
    if os.geteuid() == 0:
        return [f"{ROOT_DIRECTORY}/{program}"]
    home = os.path.expanduser("~")
    return [f"{home}/.pki/{program}", f"{home}/.config/pki/{program}"]


def found(program: str) -> str | None:
    """Return the folder with the certificate of *program*, if there is one."""
    for directory in certificate_directories(program):
        if os.path.exists(os.path.join(directory, CERTIFICATE)):
            return directory
    return None


def _find_certificates(program: str) -> str:
    if directory := found(program):
        return directory
    directories = certificate_directories(program)
    raise StartupError(
        f"TLS needs a certificate, and there is no {CERTIFICATE} in {' or '.join(directories)}:"
        " use --tls-certificates=DIR or --tls-psk=FILE"
    )


def _by_certificates(directory: str, verify_peer: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = (_readable(directory, name) for name in (CERTIFICATE, KEY))
    with _naming(f"{certificate} and {KEY}"):
        context.load_cert_chain(certificate, key, _refuse_password)
    if verify_peer:
        _verify_peers(context, directory)
    return context


def _verify_peers(context: ssl.SSLContext, directory: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    authority = _readable(directory, CA)
    with _naming(authority):
        context.load_verify_locations(authority)
    if os.path.lexists(os.path.join(directory, REVOKED)):
        revoked = _readable(directory, REVOKED)
        with _naming(revoked):
            context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _readable(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise StartupError(f"TLS: {path}: {error.strerror}") from error


@contextmanager
def _naming(files: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        reason = (error.reason or "this is not what it should be, in the form of PEM").lower()
        raise StartupError(f"TLS: {files}: {reason.replace('_', ' ')}") from error


def _refuse_password() -> str:
    raise StartupError(f"TLS: {KEY} is encrypted, and there may be nobody to ask for its password")


# -- keys -----------------------------------------------------------------------------------


def _by_keys(path: str) -> ssl.SSLContext:
    keys = dict(_read_keys(path))

    def find(name: str | None) -> bytes:
        key = keys.get(name or "", b"")
        log.info("TLS: the client calls itself %r%s", name, "" if key else ", which is unknown")
        return key

    context: Any = _context_for_keys()  # with a method that type stubs do not know yet
    context.set_ciphers(_CIPHERS_FOR_KEYS)
    context.set_psk_server_callback(find)
    secured: ssl.SSLContext = context
    return secured


def _context_for_keys() -> ssl.SSLContext:
    if hasattr(ssl.SSLContext, "set_psk_server_callback"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        from sslpsk3.sslpsk3 import SSLPSKContext, SSLPSKObject
    except ImportError:
        raise StartupError(
            "--tls-psk needs Python 3.13, or a library: pip install 'nbdfork[psk]'"
        ) from None

    class OnMemory(SSLPSKObject):  # type: ignore[misc]
        """The library's prepares the handshake whenever it is called, also to go on with it."""

        _is_prepared = False

        def do_handshake(self) -> None:
            if self._is_prepared:
                ssl.SSLObject.do_handshake(self)
            else:
                self._is_prepared = True
                super().do_handshake()

    context: ssl.SSLContext = SSLPSKContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = OnMemory
    return context


def _read_keys(path: str) -> Iterator[tuple[str, bytes]]:
    """Yield the names and keys in a file made by psktool(1)."""
    found = False
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse_key(f"{path}:{number}", line.strip())
                    found = True
    except OSError as error:
        raise StartupError(f"--tls-psk {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"--tls-psk {path}: this is not text in UTF-8") from error
    if not found:
        raise StartupError(f"--tls-psk {path}: there is no key in it")


def _parse_key(where: str, line: str) -> tuple[str, bytes]:
    name, _, digits = line.partition(":")
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if not name or not key:  # what is in the line is secret
        raise StartupError(f"--tls-psk {where}: NAME:KEY is expected, with KEY in hex digits")
    if len(key) < _SHORTEST_KEY:
        log.warning("--tls-psk %s: the key of %r is short enough to be guessed", where, name)
    return name, key
