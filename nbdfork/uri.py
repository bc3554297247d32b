"""The names by which clients find the server: NBD URIs, and the forms of qemu and guestfish."""

import re

from nbdfork.options import Options

_LIBNBD = re.compile(r"\b(nbdinfo|nbdcopy|nbdsh|nbdfuse|nbddump|nbdublk)\b")
_GUESTFISH = re.compile(r"\b(guestfish|guestmount|virt-[a-z-]+)\b")
_PLAIN_PATH = re.compile(r"[\w/.+,@-]+", re.ASCII)


def quote(text: str, safe: str = "/") -> str:
    """Return *text* as a part of a URI, by percent-encoding."""
    from urllib import parse  # and all that it imports; few servers are asked for their URI

    return parse.quote(text, safe=safe)


def tls_parameters(options: Options) -> dict[str, str] | None:
    """Return what a client on this machine needs for TLS; None if it can do without."""
    if options.tls != "require":
        return None
    files = {"tls-certificates": options.tls_certificates, "tls-psk-file": options.tls_psk}
    return {name: path for name, path in files.items() if path is not None}


def nbd_uri(
    host: str,
    port: int | None,
    unix_path: str | None,
    export_name: str,
    tls: dict[str, str] | None = None,
) -> str:
    """Return the NBD URI (https://github.com/NetworkBlockDevice/nbd, doc/uri.md).

    The parameters *tls* are those of libnbd; see nbd_connect_uri(3).
    """
    name = quote(export_name, safe="")
    scheme = "nbd" if tls is None else "nbds"
    query = dict(tls or {})
    if unix_path is not None:
        query = {"socket": unix_path, **query}
        where = f"{scheme}+unix:///{name}"
    else:
        where = f"{scheme}://{_address(host, port)}" + (f"/{name}" if name else "")
    pairs = "&".join(f"{key}={quote(value)}" for key, value in query.items())
    return f"{where}?{pairs}" if pairs else where


def for_command(
    command: str,
    host: str,
    port: int | None,
    unix_path: str | None,
    export_name: str,
    tls: dict[str, str] | None = None,
) -> str:
    """Return what `$nbd` should be in *command*, guessed from the program it runs.

    guestfish has a form of its own; libnbd's tools take a URI; all others get qemu's, unless
    the socket's path has characters which that form, or an unquoted `$nbd`, cannot hold.  Of
    TLS only a URI can speak.
    """
    if tls is not None:
        return nbd_uri(host, port, unix_path, export_name, tls)
    if _GUESTFISH.search(command):
        return _guestfish(host, port, unix_path, export_name)
    if _LIBNBD.search(command) or not _is_plain(unix_path, export_name):
        return nbd_uri(host, port, unix_path, export_name)
    where = f"unix:{unix_path}" if unix_path is not None else _address(host, port)
    return f"nbd:{where}" + (f":exportname={export_name}" if export_name else "")


def _guestfish(host: str, port: int | None, unix_path: str | None, export_name: str) -> str:
    name = quote(export_name, safe="")
    if unix_path is None:
        return f"nbd://{_address(host, port)}" + (f"/{name}" if name else "")
    return f"nbd://{'/' + name if name else ''}?socket={quote(unix_path)}"


def _is_plain(unix_path: str | None, export_name: str) -> bool:
    return all(not text or _PLAIN_PATH.fullmatch(text) for text in (unix_path, export_name))


def _address(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
