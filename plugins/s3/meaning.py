"""What the store's errors mean: the codes in their bodies (S3 API, "Error responses")."""

import errno
import http
import re
from html import unescape

from .._link.retrying import TransientError
from .._link.texts import shown as shown_text

MOST = 64 * 1024
"""How many bytes of an error are looked at."""

_CODE = re.compile(rb"<Code>\s*(\w{1,100})\s*</Code>")
_KEY = re.compile(rb"<Key>([^<]{1,5000})</Key>")

_MEANINGS = {
    "AccessDenied": (errno.EACCES, "these keys may not do this"),
    "ExpiredToken": (errno.EACCES, "the keys have expired"),
    "InvalidAccessKeyId": (errno.EACCES, "the store does not know this access key"),
    "InvalidToken": (errno.EACCES, "the session token is not good"),
    "InvalidRange": (errno.EIO, "the object is shorter than it should be"),
    "NoSuchBucket": (errno.ENOENT, "there is no such bucket"),
    "NoSuchKey": (errno.ENOENT, "there is no such object"),
    "PermanentRedirect": (errno.EIO, "the bucket is elsewhere: give its region="),
    "TemporaryRedirect": (errno.EIO, "the bucket is elsewhere: give its region="),
    "AuthorizationHeaderMalformed": (errno.EIO, "the bucket is elsewhere: give its region="),
    "QuotaExceeded": (errno.ENOSPC, "the quota is used up"),
    "RequestTimeTooSkewed": (errno.EACCES, "the clock of this machine is wrong"),
    "SignatureDoesNotMatch": (errno.EACCES, "the secret key is wrong"),
}

_ERRNO_OF_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 504: errno.ETIMEDOUT}

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset({"RequestTimeout", "SlowDown", "InternalError", "OperationAborted"})


class StoreError(OSError):
    """A request was answered, but not with what was asked for."""


class NoSuchObject(StoreError):
    """The bucket exists, but has no such object."""


class ObjectChanged(StoreError):
    """The object is not the version that was asked for."""


class Busy(TransientError, StoreError):
    """The store may answer later."""


def meaning(status: int, body: bytes, key: str, shown: str) -> StoreError:
    """Return what a reply with this *status* means for a request about the object *key*.

    *body*: what came with it.  *shown* is what was asked about, for messages.
    """
    found = _CODE.search(body[:MOST])
    code = found[1].decode() if found else ""
    named = _KEY.search(body[:MOST])
    if named and key and unescape(named[1].decode("utf-8", "replace")) != key:
        return StoreError(errno.EIO, f"{shown}: the far end says nonsense: {_other(named[1])}")
    if status == http.HTTPStatus.PRECONDITION_FAILED:
        return ObjectChanged(errno.EIO, f"{shown}: the object has changed")
    number, text = _MEANINGS.get(code, (_ERRNO_OF_STATUS.get(status, errno.EIO), ""))
    if text:
        kind = NoSuchObject if code == "NoSuchKey" and status == 404 else StoreError
        return kind(number, f"{shown}: {text} ({code})")
    said = ", ".join(word for word in (_status(status), code) if word)
    is_transient = status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES
    return (Busy if is_transient else StoreError)(number, f"{shown}: the store says {said}")


def _other(key: bytes) -> str:
    return f"an error about another object, {shown_text(key)}"


def _status(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
