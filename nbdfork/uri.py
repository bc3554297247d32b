"""Where clients find the server, and the forms in which they are told.

These are NBD URIs (https://github.com/NetworkBlockDevice/nbd, doc/uri.md), and the forms that
qemu and guestfish had before.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

_LIBNBD = re.compile(r"\b(nbdinfo|nbdcopy|nbdsh|nbdfuse|nbddump|nbdublk)\b")
_GUESTFISH = re.compile(r"\b(guestfish|guestmount|virt-[a-z-]+)\b")
_PLAIN_PATH = re.compile(r"[\w/.+,@-]+", re.ASCII)


class Endpoint(NamedTuple):
    """Where a server listens, and what its clients, on this machine, have to say and to know.

    It listens on the Unix domain socket *unix_path*; or on the vsock *port* of the context *cid*
    (vsock(7)); or on the TCP *port* of *host*.  *tls*: the parameters by which libnbd finds what it
    needs for TLS, see nbd_connect_uri(3); None if clients can do without TLS.
    """

    host: str = "localhost"
    port: int | None = None
    unix_path: str | None = None
    cid: int | None = None
    export_name: str = ""
    tls: Mapping[str, str] | None = None

    def uri(self) -> str:
        """Return the NBD URI."""
        name = _quote_name(self.export_name)
        scheme = "nbd" if self.tls is None else "nbds"
        query = dict(self.tls or {})
        if self.unix_path is not None:
            query = {"socket": self.unix_path, **query}
            where = f"{scheme}+unix:///{name}"
        else:
            if self.cid is not None:
                scheme += "+vsock"
            where = f"{scheme}://{self._address()}" + (f"/{name}" if name else "")
        pairs = "&".join(f"{key}={_quote_path(value)}" for key, value in query.items())
        return f"{where}?{pairs}" if pairs else where

    def for_command(self, command: str) -> str:
        """Return what `$nbd` should be in *command*, guessed from the program that it runs.

        guestfish has a form of its own; libnbd's tools take a URI; all others get qemu's, unless
        the socket's path has characters which that form, or an unquoted `$nbd`, cannot hold.  Only
        a URI can speak of TLS and of vsock.
        """
        if self.tls is not None or self.cid is not None:
            return self.uri()
        if _GUESTFISH.search(command):
            return self._for_guestfish()
        if _LIBNBD.search(command) or not self._is_plain():
            return self.uri()
        where = f"unix:{self.unix_path}" if self.unix_path is not None else self._address()
        return f"nbd:{where}" + (f":exportname={self.export_name}" if self.export_name else "")

    def _for_guestfish(self) -> str:
        name = _quote_name(self.export_name)
        if self.unix_path is None:
            return f"nbd://{self._address()}" + (f"/{name}" if name else "")
        return f"nbd://{'/' + name if name else ''}?socket={_quote_path(self.unix_path)}"

    def _is_plain(self) -> bool:
        texts = (self.unix_path, self.export_name)
        return all(not text or _PLAIN_PATH.fullmatch(text) for text in texts)

    def _address(self) -> str:
        host = self.host if self.cid is None else str(self.cid)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def _quote_name(name: str) -> str:
    return _quote(name.encode(errors="surrogateescape"), safe="")


def _quote_path(path: str) -> str:
    return _quote(os.fsencode(path), safe="/")


def _quote(value: bytes, safe: str) -> str:
    """Return *value* as a part of a URI, by percent-encoding."""
    from urllib import parse  # and all that it imports; few servers are asked for their URI

    return parse.quote(value, safe=safe)
