"""Requests to the store, signed and sent by libcurl, and the checks of its replies.

They must be the range and the version that were asked for.  A request that fails for a transient
reason is tried again; all of them can be repeated.
"""

import base64
import errno
import hashlib
import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar
from urllib.parse import quote
from xml.sax.saxutils import escape

import pycurl

from nbdfork.plugin import Buffer, ConfigError, Server, client

from .._link.guard import Guard
from .._link.retrying import attempt
from .._link.texts import shown as shown_text
from .._web.pool import Pool
from .._web.reply import Reply, nonsense
from .._web.transfer import Option, Transfer, always
from .credentials import Credentials, Keys
from .listing import MOST_BYTES, MOST_KEYS, not_deleted, page
from .meaning import MOST, Busy, NoSuchObject, ObjectChanged, StoreError, meaning

T = TypeVar("T")

_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before each further attempt at a request that failed."""

_CONNECTIONS = 16
"""How many a client has at the most."""


class Recipe(NamedTuple):
    """How to make a `Store`; *certificates* are those to trust, None for the system's.

    *timeout*: how many seconds a request may take, or None; *silence*: for how many the store may
    say nothing.
    """

    bucket: str
    endpoint: str | None
    region: str
    certificates: bytes | None
    credentials: Credentials
    timeout: float | None
    silence: float

    def options(self) -> list[Option]:
        """Return the options of the handles that make requests."""
        found = always(self.silence)
        found.append(Option(pycurl.AWS_SIGV4, f"aws:amz:{self.region}:s3"))
        if self.timeout:
            found.append(Option(pycurl.TIMEOUT_MS, max(1, round(self.timeout * 1000))))
        return found


class Facts(NamedTuple):
    """The size of an object in bytes, and what identifies its version."""

    size: int
    etag: str | None


class Asked(NamedTuple):
    """A request: *path* begins with a slash, and *room* bytes are the most that are wanted."""

    method: str
    path: str
    room: int = MOST
    part: tuple[int, int] | None = None
    headers: tuple[str, ...] = ()
    body: Buffer | None = None


class Handle(Transfer):
    """A libcurl handle for requests to the store."""

    def __init__(self, recipe: Recipe, shown: str) -> None:
        super().__init__(recipe.options(), shown, trust="AWS_CA_BUNDLE=")
        if recipe.certificates is not None:
            self.curl.set_ca_certs(recipe.certificates.decode("latin-1"))
        self._base = recipe.endpoint or f"https://s3.{recipe.region}.amazonaws.com"
        self._keys: Keys | None = None

    def ask(self, asked: Asked, keys: Keys) -> tuple[Reply, bytes]:
        """Make a request, and return the reply and its content, none of which is too long."""
        setopt = self.setopt
        if keys != self._keys:
            setopt(pycurl.USERNAME, keys.access_key)
            setopt(pycurl.PASSWORD, keys.secret_key)
            self._keys = keys
        setopt(pycurl.URL, (self._base.rstrip("/") + asked.path).encode())
        headers = list(asked.headers)
        if keys.token:
            headers.append(f"x-amz-security-token: {keys.token}")
        if asked.part is None:
            self.curl.unsetopt(pycurl.RANGE)
        else:
            setopt(pycurl.RANGE, f"{asked.part[0]}-{asked.part[1] - 1}")
        if asked.body is not None:
            headers += self._take_body(asked.body)
        elif asked.method == "HEAD":
            setopt(pycurl.NOBODY, 1)
        if asked.method not in ("GET", "HEAD"):
            setopt(pycurl.CUSTOMREQUEST, asked.method)
        setopt(pycurl.HTTPHEADER, headers)
        try:
            content = self.perform(asked.room)
        finally:
            self.curl.unsetopt(pycurl.CUSTOMREQUEST)
            setopt(pycurl.HTTPGET, 1)  # this also ends NOBODY and UPLOAD
        return Reply(self.headers), content

    def _take_body(self, body: Buffer) -> list[str]:
        """Have *body* sent, and return the headers that go with it."""
        stream = io.BytesIO(body)
        self.setopt(pycurl.UPLOAD, 1)
        self.setopt(pycurl.INFILESIZE_LARGE, len(body))
        self.setopt(pycurl.READFUNCTION, stream.read)
        # Needed when the data has to be sent a second time.
        self.setopt(pycurl.SEEKFUNCTION, lambda *position: stream.seek(*position) and None)
        return [f"x-amz-content-sha256: {hashlib.sha256(body).hexdigest()}", "Expect:"]


class Store:
    """A bucket.  It is made in a worker, whose threads may use it at the same time.

    Requests that are under way fail when the client has left, or *server* was told to end.  All
    methods that make requests raise OSError, and `StoreError` for what the store has answered.
    """

    def __init__(self, recipe: Recipe, server: Server) -> None:
        self._recipe = recipe
        self._bucket = recipe.bucket
        self._server = server
        self._limit = recipe.timeout or recipe.silence
        self._pool = Pool(partial(Handle, recipe, f"s3://{recipe.bucket}"), _CONNECTIONS)
        self._guard = Guard(server, client.departure(), self._pool.abandon)

    def close(self) -> None:
        """Close all connections; no request is under way."""
        self._guard.close()
        self._pool.close()

    def head(self, key: str) -> Facts:
        """Return the facts of an object."""
        reply, _ = self._ask(key, Asked("HEAD", self._path(key)))
        if reply.status != 200:
            self.get(key, 0, 1)  # its error says why, for which a reply to HEAD has no room
            raise self._error(key, f"the store says {reply.status} to HEAD, and not to GET")
        reply.check(self.shown(key))
        size = reply.field("content-length")
        if size is None:
            raise nonsense(self.shown(key), "an object without a size")
        return Facts(int(size), reply.field("etag"))

    def get(
        self, key: str, start: int, end: int, size: int | None = None, etag: str | None = None
    ) -> bytes:
        """Return the bytes of an object from *start* to *end*.

        Raises `NoSuchObject`, `ObjectChanged` if it is not the version *etag*, and `StoreError` if
        it does not have *size* bytes.
        """
        match = () if etag is None else (f"If-Match: {etag}",)
        room = max(end - start, MOST)
        asked = Asked("GET", self._path(key), room, part=(start, end), headers=match)
        reply, data = self._ask(key, asked)
        if reply.status not in (200, 206):
            raise meaning(reply.status, data, key, self.shown(key))
        reply.check(self.shown(key))
        if etag is not None and reply.field("etag") != etag:  # the store does not know If-Match
            raise ObjectChanged(errno.EIO, f"{self.shown(key)}: the object has changed")
        if reply.status == 200 and (start, len(data)) != (0, end):
            raise self._error(key, "the store sends the whole object when asked for a part of it")
        part = reply.content_range() if reply.status == 206 else (0, len(data), len(data))
        if part is None:
            raise self._error(key, "the store does not say which part it sent (Content-Range)")
        if size is not None and part[2] is not None and part[2] != size:
            raise self.wrong_size(key, part[2], size)
        if part[:2] != (start, end - start) or len(data) != end - start:
            raise self._error(
                key,
                f"the store sent {len(data)} bytes, said to be {part[1]} at {part[0]},"
                f" not {end - start} at {start}",
            )
        return data

    def put(self, key: str, data: Buffer) -> None:
        """Create or replace an object."""
        reply, said = self._ask(key, Asked("PUT", self._path(key), body=data))
        if reply.status not in (200, 201, 204):
            raise meaning(reply.status, said, key, self.shown(key))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many with each request; missing ones do not matter."""
        if len(keys) == 1:
            reply, said = self._ask(keys[0], Asked("DELETE", self._path(keys[0])))
            if reply.status not in (200, 204):
                error = meaning(reply.status, said, keys[0], self.shown(keys[0]))
                if not isinstance(error, NoSuchObject):
                    raise error
            return
        for first in range(0, len(keys), MOST_KEYS):
            self._delete_many(keys[first : first + MOST_KEYS])

    def _delete_many(self, keys: Sequence[str]) -> None:
        objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        asked = Asked(
            "POST",
            f"{self._path()}?delete=",
            MOST_BYTES,
            headers=(f"Content-MD5: {md5}", "Content-Type: application/xml"),
            body=body,
        )
        reply, said = self._ask(keys[0], asked)
        if reply.status != 200:
            raise meaning(reply.status, said, "", self.shown(keys[0]))
        try:
            error = not_deleted(said)
        except ValueError as bad:
            raise nonsense(self.shown(keys[0]), str(bad)) from bad
        if error:
            raise meaning(reply.status, error, "", self.shown(keys[0]))

    def pages(self, prefix: str, after: str | None) -> Iterator[list[tuple[str, int]]]:
        """List the objects whose keys begin with *prefix* and a slash, in the order of the keys.

        Yield (key, size) of those after the key *after*, a list for each request.
        """
        last, token = after or "", ""
        while True:
            query = {
                "continuation-token": token,
                "encoding-type": "url",
                "list-type": "2",
                "max-keys": str(MOST_KEYS),
                "prefix": f"{prefix}/",
                "start-after": after or "",
            }
            words = "&".join(f"{name}={quote(text, '')}" for name, text in query.items() if text)
            shown = self.shown(f"{prefix}/")
            reply, said = self._ask(
                f"{prefix}/", Asked("GET", f"{self._path()}?{words}", MOST_BYTES)
            )
            if reply.status != 200:
                raise meaning(reply.status, said, "", shown)
            reply.check(shown)
            before = token
            try:
                found, token = page(said, f"{prefix}/", last)
            except ValueError as error:
                raise nonsense(shown, str(error)) from error
            if token and token == before:
                raise nonsense(shown, "that the next page is the one that was asked for")
            yield found
            if not token:
                return
            last = found[-1][0] if found else last

    def wrong_size(self, key: str, found: int, size: int) -> StoreError:
        """Return the error for an object that does not have *size* bytes."""
        return self._error(key, f"the object has {found} bytes, and not {size}")

    def shown(self, key: str) -> str:
        """Return the name of an object, for messages."""
        return f"s3://{self._bucket}/{key}"

    def _error(self, key: str, text: str) -> StoreError:
        return StoreError(errno.EIO, f"{self.shown(key)}: {text}")

    def _path(self, key: str = "") -> str:
        return f"/{self._bucket}/{quote(key)}" if key else f"/{self._bucket}"

    def _ask(self, key: str, asked: Asked) -> tuple[Reply, bytes]:
        """Make a request about *key*, and again while it fails transiently."""

        def once() -> tuple[Reply, bytes]:
            keys = self._keys(key)
            handle = self._pool.take()
            try:
                handle.shown = self.shown(key)
                reply, said = handle.ask(asked, keys)
            finally:
                self._pool.give(handle)
            if not reply.status:
                reply.check(self.shown(key))
            if reply.status >= 400:
                error = meaning(reply.status, said, "", self.shown(key))
                if isinstance(error, Busy):
                    raise error
            return reply, said

        return attempt(once, _PAUSES, "s3", self._server.wait, self._limit)

    def _keys(self, key: str) -> Keys:
        try:
            return self._recipe.credentials()
        except (ConfigError, OSError) as error:
            text = f"no keys to ask with: {shown_text(str(error).removeprefix('s3: '))}"
            raise StoreError(errno.EACCES, f"{self.shown(key)}: {text}") from error
