"""What the store says in XML: a page of a listing, and what could not be deleted.

Nothing is believed of a page but what a listing can say: keys that were asked for, in their order,
no more of them than was allowed.  XML with a document type, which could define entities that grow
without end, is refused.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

from nbdfork.plugin import parse

from .._link.texts import shown as shown_text

MOST_KEYS = 1000
"""The most objects that one request lists or deletes (S3 API, "max-keys")."""

MOST_BYTES = 8 * 1024 * 1024
"""The longest page: keys have up to 1024 bytes, each of which may be escaped."""

_MOST_TOKEN = 4096


class Page(NamedTuple):
    """Keys and sizes of objects, and the token that asks for the next page, or ""."""

    found: list[tuple[str, int]]
    token: str


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("a document type")


def page(text: bytes, prefix: str, after: str) -> Page:
    """Parse a page of the keys that begin with *prefix* and follow the key *after*.

    Raises ValueError for what it cannot be.
    """
    root = _parsed(text, "ListBucketResult")
    is_quoted = root.findtext("EncodingType") == "url"
    found = []
    last = after.encode()
    for entry in root.iterfind("Contents"):
        key = entry.findtext("Key") or ""
        key = unquote(key) if is_quoted else key
        if not key.startswith(prefix):
            raise ValueError(f"a key that was not asked for, {shown_text(key)}")
        encoded = key.encode(errors="surrogateescape")
        if encoded <= last:
            raise ValueError(f"keys out of order, {shown_text(key)}")
        last = encoded
        found.append((key, _number(entry.findtext("Size") or "")))
    count = root.findtext("KeyCount")
    if len(found) > MOST_KEYS or (count is not None and _number(count) != len(found)):
        raise ValueError(f"a page of {len(found)} keys, said to be {shown_text(count or 'fewer')}")
    token = root.findtext("NextContinuationToken") or ""
    if len(token) > _MOST_TOKEN:
        raise ValueError(f"a token of {len(token)} characters")
    if root.findtext("IsTruncated") != "true":
        return Page(found, "")
    if not token:
        raise ValueError("that there is a next page, but not how to ask for it")
    return Page(found, token)


def not_deleted(text: bytes) -> bytes:
    """Return the first error in the reply to a request to delete several objects, or b"".

    Raises ValueError for what cannot be such a reply.
    """
    error = _parsed(text, "DeleteResult").find("Error") if text.strip() else None
    return b"" if error is None else ElementTree.tostring(error)


def _parsed(text: bytes, name: str) -> ElementTree.Element:
    """Return the element *name* that *text* is, with the names of all elements bare."""
    try:
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_Builder()))
    except ElementTree.ParseError as error:
        raise ValueError(f"XML that is none ({shown_text(str(error))})") from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    if root.tag != name:
        raise ValueError(f"{shown_text(root.tag)} instead of {name}")
    return root


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text, re.ASCII) or int(text) > parse.MAX_SIZE:
        raise ValueError(f"a number that is none, {shown_text(text)}")
    return int(text)
