"""The ways in which a web server may lie, break or be slow, by their names.

Each is an answer to a request for a part of a file, of which all is as it should be but for what
its name says.  What a client is to make of each is for its tests to say.
"""

import errno
from collections.abc import Iterator
from functools import partial

from tests.support.lying_web import Answer, Fields, Request

NUMBER = "9" * 5000
"""A number of 5,000 digits."""

PIECE = bytes(64 * 1024)
"""What is sent of content that has no end, a piece at a time."""


def raw(
    request: Request,
    status: str = "HTTP/1.1 206 Partial Content",
    body: bytes | None = None,
    fields: Fields | None = None,
) -> bytes:
    """Return the good reply byte for byte, with *fields* instead of, or besides, its own."""
    first, last = request.part()
    content = request.server.content
    part = content[first : last + 1] if body is None else body
    all_fields: dict[str, str | None] = {
        "Content-Length": str(len(part)),
        "Content-Range": f"bytes {first}-{last}/{len(content)}",
        **request.server.fields,
        **(fields or {}),
    }
    lines = [f"{name}: {value}" for name, value in all_fields.items() if value is not None]
    return "\r\n".join([status, *lines, "", ""]).encode("latin-1") + part


def _named(fields: Fields) -> Fields:
    return {name.replace("_", "-"): value for name, value in fields.items()}


def saying(status: str = "HTTP/1.1 206 Partial Content", **fields: str | None) -> Answer:
    """Return an answer with another status line or other header fields."""
    return lambda request: request.send_raw(raw(request, status, fields=_named(fields)))


def saying_only(status: int) -> Answer:
    """Return an answer with no more than a status."""
    return lambda request: request.reply(status)


def telling(**fields: str | None) -> Answer:
    """Return an answer to HEAD with other header fields."""
    return lambda request: request.send_whole(_named(fields))


def containing(body: bytes, **fields: str | None) -> Answer:
    """Return an answer with other content."""
    return lambda request: request.send_raw(raw(request, body=body, fields=_named(fields)))


def redirecting(where: str) -> Answer:
    """Return an answer that sends the client to *where*."""
    return lambda request: request.reply(302, fields={"Location": where})


def shifted(by: int, longer: int = 0) -> Answer:
    """Return an answer that is of another part than was asked for, and says so."""

    def answer(request: Request) -> None:
        first, last = request.part()
        size = len(request.server.content)
        span = f"bytes {first + by}-{last + by + longer}/{size}"
        request.send_part({"Content-Range": span})

    return answer


def resized(size: str) -> Answer:
    """Return an answer that tells another size of the file."""

    def answer(request: Request) -> None:
        first, last = request.part()
        request.send_part({"Content-Range": f"bytes {first}-{last}/{size}"})

    return answer


def _chunks(request: Request) -> bytes:
    reply = raw(request, fields={"Transfer-Encoding": "chunked", "Content-Length": None})
    head, _, part = reply.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + b"%x\r\n" % len(part) + part + b"\r\n0\r\n\r\n"


def _in_chunks(request: Request) -> None:
    request.send_raw(_chunks(request))


def _in_bad_chunks(request: Request) -> None:
    head = _chunks(request).partition(b"\r\n\r\n")[0]
    request.send_raw(head + b"\r\n\r\nzz\r\nnot a chunk\r\n")


def _in_chunks_of_nonsense(request: Request) -> None:
    head = _chunks(request).partition(b"\r\n\r\n")[0]
    request.send_raw(head + b"\r\n\r\n" + b"f" * 5000 + b"\r\n")


def _endless_chunks(request: Request) -> None:
    request.send_raw(_chunks(request).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    request.send_for_ever(b"%x\r\n" % len(PIECE) + PIECE + b"\r\n")


def _endless_content(request: Request) -> None:
    request.send_raw(raw(request, fields={"Content-Length": None}))
    request.send_for_ever(PIECE)


def _endless_error(request: Request) -> None:
    request.send_raw(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    request.send_for_ever(PIECE)


def _endless_headers(request: Request) -> None:
    request.send_raw(b"HTTP/1.1 206 Partial Content\r\n")
    request.send_for_ever(b"X-Bomb: %b\r\n" % (b"x" * 4096))


def _endless_line(request: Request) -> None:
    request.send_raw(b"HTTP/1.1 206 Partial Content\r\nX-Bomb: ")
    request.send_for_ever(b"x" * 4096)


def _endless_interim_replies(request: Request) -> None:
    request.send_for_ever(b"HTTP/1.1 103 Early Hints\r\nX-Bomb: %b\r\n\r\n" % (b"x" * 4096))


def _drip(request: Request) -> None:
    for byte in raw(request):
        request.send_raw(bytes([byte]))
        if request.stay_silent(0.05):
            return


def _silent_after(request: Request, share: float) -> None:
    reply = raw(request)
    head = reply.index(b"\r\n\r\n") + 4
    places = {0.0: 0, 0.2: 12, 0.4: head // 2, 0.6: head, 0.8: len(reply) - 1}
    request.send_raw(reply[: places[share]], then_silent=True)


SILENCES: dict[str, Answer] = {
    "silent at once": partial(_silent_after, share=0.0),
    "silent in the status line": partial(_silent_after, share=0.2),
    "silent in the headers": partial(_silent_after, share=0.4),
    "silent after the headers": partial(_silent_after, share=0.6),
    "silent before the last byte": partial(_silent_after, share=0.8),
    "a slow drip": _drip,
}
"""Servers that say nothing, or next to nothing, from some step on."""

ENDLESS: dict[str, Answer] = {
    "endless content": _endless_content,
    "endless chunks": _endless_chunks,
    "an endless error": _endless_error,
    "endless headers": _endless_headers,
    "an endless header": _endless_line,
    "endless interim replies": _endless_interim_replies,
}
"""Servers that never stop."""

STATUS_LINES: dict[str, Answer] = {
    "206 in the reason only": saying("HTTP/1.1 200 it is a 206 reply"),
    "a header that looks like a status line": lambda request: request.send_raw(
        raw(request, "HTTP/1.1 404 Not Found", fields={"HTTP/1.1 206 Partial": "Content"})
    ),
    "no status": saying("HTTP/1.1"),
    "a status of letters": saying("HTTP/1.1 abc Partial"),
    "a status of 5,000 digits": saying(f"HTTP/1.1 {NUMBER} Partial"),
    "another protocol": saying("SSH-2.0-OpenSSH_9.2"),
    "HTTP/0.9": lambda request: request.send_raw(request.server.content[:4096]),
}

RANGES: dict[str, Answer] = {
    "the whole file": Request.send_whole,
    "no range": saying(Content_Range=None),
    "a range that is none": saying(Content_Range="bytes all of it"),
    "a range backwards": saying(Content_Range="bytes 9-3/99"),
    "a range of 5,000 digits": saying(Content_Range=f"bytes {NUMBER}-{NUMBER}/{NUMBER}"),
    "a range that is negative": saying(Content_Range="bytes -1--1/-1"),
    "the part before": shifted(-1),
    "the part after": shifted(1),
    "a longer part": shifted(0, 1),
    "a shorter part": shifted(0, -1),
    "another size": resized("99999999"),
    "a size of 2^63": resized(str(1 << 63)),
    "two ranges": lambda request: request.send_raw(
        raw(request).replace(b"\r\n\r\n", b"\r\nContent-Range: bytes 0-9/10\r\n\r\n", 1)
    ),
    "several parts": saying(Content_Range=None, Content_Type="multipart/byteranges; boundary=x"),
}

LENGTHS: dict[str, Answer] = {
    "a length of 2^63": saying(Content_Length=str(1 << 63)),
    "a length of 5,000 digits": saying(Content_Length=NUMBER),
    "a length of -1": saying(Content_Length="-1"),
    "a length that is none": saying(Content_Length="many"),
    "content that is short": containing(b"x" * 10, Content_Length="4096"),
    "content that is empty": containing(b""),
    "content that is long": containing(b"x" * 5000),
    "chunks that are none": _in_bad_chunks,
    "a chunk of 5,000 digits": _in_chunks_of_nonsense,
}

VERSIONS: dict[str, Answer] = {
    "another ETag": saying(ETag='"other"'),
    "no ETag": saying(ETag=None),
    "an empty ETag": saying(ETag=""),
    "another date": saying(Last_Modified="Fri, 02 Jan 1970 00:00:00 GMT"),
    "no date": saying(Last_Modified=None),
    "two ETags": lambda request: request.send_raw(
        raw(request).replace(b"\r\n\r\n", b'\r\nETag: "other"\r\n\r\n', 1)
    ),
}

ENCODINGS: dict[str, Answer] = {
    "gzip": saying(Content_Encoding="gzip"),
    "an unknown encoding": saying(Content_Encoding="x\x1b[31m"),
    "gzip for the transfer": saying(Transfer_Encoding="gzip"),
}

REDIRECTS: dict[str, Answer] = {
    "a redirect to itself": redirecting("/disk"),
    "a redirect to a file": redirecting("file:///etc/passwd"),
    "a redirect to ftp": redirecting("ftp://127.0.0.1/disk"),
    "a redirect to nowhere": redirecting("http://127.0.0.1:1/disk"),
    "a redirect to nonsense": redirecting("http://[::zz/disk"),
    "a redirect without a place": lambda request: request.reply(302),
}

GOOD: dict[str, Answer] = {
    "as it should be": Request.send_part,
    "in chunks": _in_chunks,
    "until the end of the connection": saying(Content_Length=None),
    "with the old protocol": saying("HTTP/1.0 206 Partial Content"),
    "with a reason of its own": saying("HTTP/1.1 206 \x1b[31mred"),
    "with other headers": saying(X_Any="thing", Set_Cookie="a=b"),
    "with a size that is not told": lambda request: request.send_part(
        {"Content-Range": "bytes {}-{}/*".format(*request.part())}
    ),
}
"""Replies that are right, in forms that are seldom seen."""

LIES: dict[str, Answer] = {
    **STATUS_LINES,
    **RANGES,
    **LENGTHS,
    **VERSIONS,
    **ENCODINGS,
    **REDIRECTS,
    **ENDLESS,
    **SILENCES,
}

TOLD_BY_LIBCURL: dict[str, tuple[int, str]] = {
    "content that is short": (errno.EIO, "4086 bytes missing"),
    "chunks that are none": (errno.EIO, "not a hex digit"),
    "a chunk of 5,000 digits": (errno.EIO, "hex-length longer"),
    "endless headers": (errno.EIO, "Too large response headers"),
    "endless interim replies": (errno.EIO, "Too large response headers"),
    **dict.fromkeys(SILENCES, (errno.ETIMEDOUT, "timed out after 3")),
}
"""What a read is told, errno and text, of lies that libcurl notices, whatever is built on it."""


def cuts(reply: bytes) -> Iterator[Answer]:
    """Return answers that are *reply* cut after each of its bytes."""
    for count in range(len(reply)):
        yield lambda request, count=count: request.send_raw(reply[:count])  # type: ignore[misc]
