"""The ways in which an object store may lie in the lists and errors that it sends, by their names.

Each is an answer to a request to list a bucket.  The web server's own ways are in `web_lies`.
"""

import itertools
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from tests.support.lying_web import Answer, Request
from tests.support.web_lies import NUMBER

PREFIX = "disk/"

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BOMB = f'<!DOCTYPE lolz [<!ENTITY l0 "lol">{LAUGHS}]>'


def key(number: int) -> str:
    return f"{PREFIX}{number:016x}"


def listing(
    entries: Iterable[tuple[str, str]], more: str = "", *, head: str = "", name: str = "List"
) -> bytes:
    """Return a page with these keys and sizes, and *more* elements."""
    found = "".join(f"<Contents><Key>{k}</Key><Size>{s}</Size></Contents>" for k, s in entries)
    body = f"<{name}BucketResult>{found}{more}</{name}BucketResult>"
    return f'<?xml version="1.0"?>{head}{body}'.encode()


def page(entries: Iterable[tuple[str, str]], more: str = "", **how: str) -> Answer:
    """Return an answer that is such a page."""
    return lambda request: request.reply(200, listing(entries, more, **how))


def error(status: int, code: str, more: str = "") -> Answer:
    """Return an answer that is an error of the store."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code>{more}</Error>"
    return lambda request: request.reply(status, body.encode())


def truncated(token: str) -> str:
    return f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"


def _endless_pages(request: Request) -> None:
    """Each page has another object, which is none of the disk's, and a next page."""
    token = parse_qs(urlsplit(request.path).query).get("continuation-token", ["0"])[0]
    number = int(token) + 1
    entries = [(f"{key(0)}.{number:09}", "1")]
    request.reply(200, listing(entries, truncated(str(number))))


def _the_same_page(request: Request) -> None:
    number = request.server.count("GET")
    request.reply(200, listing([(key(0), "512")], truncated(str(number))))


def _endless_page(request: Request) -> None:
    request.send_raw(b"HTTP/1.1 200 OK\r\n\r\n<ListBucketResult>")
    for number in itertools.count():
        if request.stay_silent(0):
            return
        found = f"<Contents><Key>{key(number)}</Key><Size>512</Size></Contents>" * 100
        request.wfile.write(found.encode())


def _endless_error(request: Request) -> None:
    request.send_raw(b"HTTP/1.1 500 Internal Server Error\r\n\r\n<Error><Code>")
    request.send_for_ever(b"x" * 65536)


LISTINGS: dict[str, Answer] = {
    "no XML": lambda request: request.reply(200, b"<html>log in"),
    "nothing": lambda request: request.reply(200),
    "another document": page([], name="Other"),
    "a bomb of entities": page([("&l11;", "512")], head=BOMB),
    "an entity of a file": page(
        [("&x;", "512")], head='<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    ),
    "deep XML": lambda request: request.reply(200, b"<a>" * 100_000),
    "keys of other objects": page([("other/0000000000000000", "512")]),
    "keys out of order": page([(key(2), "512"), (key(1), "512")]),
    "the same key twice": page([(key(1), "512"), (key(1), "512")]),
    "too many keys": page([(key(n), "512") for n in range(1001)]),
    "another count": page([(key(1), "512")], "<KeyCount>7</KeyCount>"),
    "a count of 5,000 digits": page([], f"<KeyCount>{NUMBER}</KeyCount>"),
    "a size of -1": page([(key(1), "-1")]),
    "a size of 2^63": page([(key(1), str(1 << 63))]),
    "a size of 5,000 digits": page([(key(1), NUMBER)]),
    "no size": page([(key(1), "")]),
    "another size": page([(key(1), "513")]),
    "no token": page([(key(1), "512")], "<IsTruncated>true</IsTruncated>"),
    "a token that is repeated": page([(f"{key(0)}.README", "1")], truncated("same")),
    "a token without end": page([], truncated("x" * 5000)),
    "the same page again": _the_same_page,
    "endless pages": _endless_pages,
    "an endless page": _endless_page,
    "an endless error": _endless_error,
    "an error that is not there": error(200, "AccessDenied"),
    "access denied": error(403, "AccessDenied"),
    "no bucket": error(404, "NoSuchBucket"),
    "an unknown error": error(418, "Teapot\x1b[31m"),
    "a redirect": lambda request: request.reply(301, fields={"Location": "http://127.0.0.1:1/"}),
    "silence": lambda request: request.stay_silent(),
}
