"""Requests to the store through the library obstore, and what its errors mean.

Replies are checked here: they must be the range and the version that were asked for.  The library
repeats requests that fail for a transient reason.
"""

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import obstore
from obstore import exceptions
from obstore.store import S3Store

from nbdfork.plugin import Buffer

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

_RETRY: "RetryConfig" = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
"""A store that does not answer fails a request after a few seconds, not minutes."""

_TIMEOUT = timedelta(minutes=2)
_CONNECT_TIMEOUT = timedelta(seconds=5)

_PAGE = 1000
"""The most objects that one request lists (ListObjectsV2, "max-keys")."""

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d+ [^:\n]+)")
_CAUSE = re.compile(r'(?:message|error): "([^"]+)"')

_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")

_KEYS = re.compile(r"credential provider: \w+: (?:s3: )?(.+)")

_MEANINGS = {
    "AccessDenied": (errno.EPERM, "these keys may not do this"),
    "ExpiredToken": (errno.EPERM, "the keys have expired"),
    "InvalidAccessKeyId": (errno.EPERM, "the store does not know this access key"),
    "InvalidToken": (errno.EPERM, "the session token is not good"),
    "InvalidRange": (errno.EIO, "the object is shorter than it should be"),
    "NoSuchBucket": (errno.EIO, "there is no such bucket"),
    "NoSuchKey": (errno.EIO, "there is no such object"),
    "PermanentRedirect": (errno.EIO, "the bucket is elsewhere: give its region="),
    "AuthorizationHeaderMalformed": (errno.EIO, "the bucket is elsewhere: give its region="),
    "QuotaExceeded": (errno.ENOSPC, "the quota is used up"),
    "RequestTimeTooSkewed": (errno.EPERM, "the clock of this machine is wrong"),
    "SignatureDoesNotMatch": (errno.EPERM, "the secret key is wrong"),
}
"""The store's error codes (S3 API, "Error responses"), as errno and message."""


class Recipe(NamedTuple):
    """How to make a `Store`; *certificates* are those to trust, None for the system's."""

    bucket: str
    endpoint: str | None
    region: str
    certificates: bytes | None
    credentials: "Callable[[], S3Credential]"


class StoreError(OSError):
    """A request failed; the errno is one that the protocol has."""


class NoSuchObject(StoreError):
    """The bucket exists, but has no such object."""


class ObjectChanged(StoreError):
    """The object is not the version that was asked for."""


class Facts(NamedTuple):
    """The size of an object in bytes, and what identifies its version."""

    size: int
    etag: str | None


class Store:
    """A bucket.  It is made in a worker, whose threads may use it at the same time.

    All methods raise `StoreError`.
    """

    def __init__(self, recipe: Recipe) -> None:
        options: ClientConfig = {"timeout": _TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT}
        if recipe.endpoint is not None and recipe.endpoint.startswith("http:"):
            options["allow_http"] = True
        if recipe.certificates is not None:
            options["root_certificate"] = recipe.certificates
        config: S3Config = {"region": recipe.region}
        if recipe.endpoint is not None:
            config["endpoint"] = recipe.endpoint
        self._bucket = recipe.bucket
        with self._errors(""):
            self._store = S3Store(
                recipe.bucket,
                config=config,
                client_options=options,
                retry_config=_RETRY,
                credential_provider=recipe.credentials,
            )

    def head(self, key: str) -> Facts:
        """Return the facts of an object."""
        try:
            with self._errors(key):
                found = obstore.head(self._store, key)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError | exceptions.PermissionDeniedError):
                self.get(key, 0, 1)  # its error says why, for which a reply to HEAD has no room
            raise
        return Facts(found["size"], found["e_tag"])

    def get(
        self, key: str, start: int, end: int, size: int | None = None, etag: str | None = None
    ) -> Buffer:
        """Return the bytes of an object from *start* to *end*.

        Raises `NoSuchObject`, `ObjectChanged` if it is not the version *etag*, and `StoreError` if
        it does not have *size* bytes.
        """
        options: GetOptions = {"range": (start, end)}
        if etag is not None:
            options["if_match"] = etag
        with self._errors(key):
            reply = obstore.get(self._store, key, options=options)
            data = memoryview(reply.bytes())
            found = reply.meta["size"]
            version = reply.meta["e_tag"]
        if etag is not None and version != etag:  # the store does not know If-Match
            raise ObjectChanged(errno.EIO, f"{self.shown(key)}: the object has changed")
        if size is not None and found != size:
            raise self.wrong_size(key, found, size)
        if tuple(reply.range) != (start, end) or len(data) != end - start:
            raise StoreError(
                errno.EIO,
                f"{self.shown(key)}: the store sent {len(data)} bytes at {reply.range[0]},"
                f" not {end - start} at {start}",
            )
        return data

    def put(self, key: str, data: Buffer) -> None:
        """Create or replace an object."""
        with self._errors(key):
            obstore.put(self._store, key, data, use_multipart=False)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, up to 1000 with each request; missing ones do not matter."""
        with self._errors(keys[0]):
            obstore.delete(self._store, keys[0] if len(keys) == 1 else keys)

    def pages(self, prefix: str, after: str | None) -> Iterator[list[tuple[str, int]]]:
        """List the objects whose keys begin with *prefix* and a slash, in the order of the keys.

        Yield (key, size) of those after the key *after*, a list for each request.
        """
        with self._errors(f"{prefix}/"):
            for page in obstore.list(self._store, prefix, offset=after, chunk_size=_PAGE):
                yield [(found["path"], found["size"]) for found in page]

    def wrong_size(self, key: str, found: int, size: int) -> StoreError:
        """Return the error for an object that does not have *size* bytes."""
        text = f"{self.shown(key)}: the object has {found} bytes, and not {size}"
        return StoreError(errno.EIO, text)

    def shown(self, key: str) -> str:
        """Return the name of an object, for messages."""
        return f"s3://{self._bucket}/{key}"

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn the library's errors into `StoreError`."""
        try:
            yield
        except (exceptions.BaseError, FileNotFoundError, ValueError) as error:
            raise _meaning(error, self.shown(key)) from error


def _meaning(error: Exception, shown: str) -> StoreError:
    """Return the error that the library's *error* means for a request about the object *shown*."""
    text = str(error)
    if isinstance(error, exceptions.PreconditionError):
        return ObjectChanged(errno.EIO, f"{shown}: the object has changed")
    code = _CODE.search(text)
    status = _STATUS.search(text)
    if code and code[1] in _MEANINGS:
        number, meaning = _MEANINGS[code[1]]
        kind = NoSuchObject if code[1] == "NoSuchKey" else StoreError
        return kind(number, f"{shown}: {meaning} ({code[1]})")
    number = errno.EIO
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        number = errno.EPERM
    if said := ", ".join(found[1] for found in (status, code) if found):
        return StoreError(number, f"{shown}: the store says {said}")
    return StoreError(number, f"{shown}: {_cause(text)}")


def _cause(text: str) -> str:
    """Return why there was no reply, from the text of the library's error."""
    if certificate := _CERTIFICATE.search(text):
        return (
            f"the store's certificate is bad ({certificate[1]}); AWS_CA_BUNDLE= names whom to trust"
        )
    if keys := _KEYS.search(text):
        return f"no keys to ask with: {keys[1]}"
    if causes := _CAUSE.findall(text):
        return str(causes[-1])
    summary = text.partition("\n\nDebug source")[0]
    return " ".join(summary.rpartition(" - ")[2].split())
