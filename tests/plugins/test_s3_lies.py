"""The s3 plugin and an object store that misbehaves as no real one would."""

import errno
import os

import pytest

from nbdfork.plugin import HOLE, ZERO, Extent
from tests.support import store_lies, web_lies
from tests.support.harness import SECONDS, eventually, refused
from tests.support.lying_web import Answer, Fields, LyingWeb, Request, in_turn
from tests.support.memory import growth
from tests.support.s3 import keys, opened
from tests.support.served import serving
from tests.support.told import check_told

pytestmark = pytest.mark.usefixtures("no_keys_of_the_user")

CONTENT = os.urandom(1 << 20)

GOOD = {"ETag": '"a"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}
"""What a store says of an object."""

SHORT = "timeout=0.3"
"""Of so little time that a failure which may pass is tried again once."""

MOST_MEMORY = 48 << 20
"""How much may be taken for whatever is announced or sent: a page of a list is read whole."""

NONSENSE = "the far end says nonsense: "
CHANGED = "the object is no longer the one that the client connected to"

EXPECTED_OF_READS: dict[str, tuple[int, str]] = {
    **dict.fromkeys(web_lies.LIES, (errno.EIO, NONSENSE)),
    **dict.fromkeys(web_lies.REDIRECTS, (errno.EIO, "the store says 302 Found")),
    **web_lies.TOLD_BY_LIBCURL,
    **dict.fromkeys(("another ETag", "no ETag", "an empty ETag"), (errno.EIO, CHANGED)),
    "206 in the reason only": (errno.EIO, "the store sends the whole object"),
    "a header that looks like a status line": (errno.ENOENT, "the store says 404 Not Found"),
    "the whole file": (errno.EIO, "the store sends the whole object"),
    "no range": (errno.EIO, "the store does not say which part it sent"),
    "several parts": (errno.EIO, "the store does not say which part it sent"),
    "the part before": (errno.EIO, "said to be 4096 at 4095, not 4096 at 4096"),
    "the part after": (errno.EIO, "said to be 4096 at 4097, not 4096 at 4096"),
    "a longer part": (errno.EIO, "said to be 4097 at 4096, not 4096 at 4096"),
    "a shorter part": (errno.EIO, "said to be 4095 at 4096, not 4096 at 4096"),
    "another size": (errno.EIO, "the object has 99999999 bytes, and not 1048576"),
    "content that is empty": (errno.EIO, "the store sent 0 bytes, said to be 4096 at 4096"),
    "content that is long": (errno.EIO, "the store sent 5000 bytes, said to be 4096 at 4096"),
    "endless content": (errno.EIO, "the store sent 0 bytes"),
    "endless chunks": (errno.EIO, "the store sent 0 bytes"),
    "an endless error": (errno.EACCES, "the store says 403 Forbidden"),
}
"""What a read is told; a date that is different does not matter where there is an ETag."""
del EXPECTED_OF_READS["another date"], EXPECTED_OF_READS["no date"]

EXPECTED_OF_LISTS: dict[str, tuple[int, str]] = {
    **dict.fromkeys(store_lies.LISTINGS, (errno.EIO, NONSENSE)),
    "a bomb of entities": (errno.EIO, NONSENSE + "a document type"),
    "an entity of a file": (errno.EIO, NONSENSE + "a document type"),
    "keys of other objects": (errno.EIO, NONSENSE + "a key that was not asked for, other/"),
    "keys out of order": (errno.EIO, NONSENSE + "keys out of order"),
    "the same key twice": (errno.EIO, NONSENSE + "keys out of order"),
    "too many keys": (errno.EIO, NONSENSE + "a page of 1001 keys"),
    "another count": (errno.EIO, NONSENSE + "a page of 1 keys, said to be 7"),
    "another size": (errno.EIO, "the object has 513 bytes, and not 512"),
    "the same page again": (errno.EIO, NONSENSE + "keys out of order"),
    "a token that is repeated": (errno.EIO, NONSENSE),
    "endless pages": (errno.EIO, "too many keys of other objects"),
    "an endless error": (errno.EIO, "the store says 500 Internal Server Error"),
    "access denied": (errno.EACCES, r"these keys may not do this \(AccessDenied\)"),
    "no bucket": (errno.ENOENT, r"there is no such bucket \(NoSuchBucket\)"),
    "an unknown error": (errno.EIO, "the store says 418"),
    "a redirect": (errno.EIO, "the store says 301 Moved Permanently"),
    "silence": (errno.ETIMEDOUT, "timed out after 3"),
}
"""What a client is told that asks where there is data."""


def lying(get: Answer = Request.send_part, **answers: Answer) -> LyingWeb:
    return LyingWeb(CONTENT, GOOD, get=get, **answers)


def disk(server: LyingWeb, *more: str) -> list[str]:
    return [f"endpoint-url={server.origin}", "bucket=disks", *keys(), "disk", *more]


def many(server: LyingWeb, *more: str) -> list[str]:
    return disk(server, "size=1M", "object-size=512", *more)


def saying(status: int, body: bytes = b"", fields: Fields | None = None) -> Answer:
    return lambda request: request.reply(status, body, fields)


def check(error: OSError, number: int) -> None:
    check_told(error, "s3://disks/disk", number)


@pytest.mark.parametrize("lie", EXPECTED_OF_READS)
def test_a_read_is_lied_to(lie: str) -> None:
    number, text = EXPECTED_OF_READS[lie]
    with lying(web_lies.LIES[lie]) as server, opened(*disk(server, SHORT)) as export:
        with growth() as grown, pytest.raises(OSError, match=text) as caught:
            export.pread(4096, 4096)
        assert grown() < MOST_MEMORY
        check(caught.value, number)


@pytest.mark.parametrize("way", web_lies.GOOD)
def test_a_reply_that_is_right(way: str) -> None:
    with lying(web_lies.GOOD[way]) as server, opened(*disk(server)) as export:
        assert export.pread(4096, 4096) == CONTENT[4096:8192]


@pytest.mark.parametrize("lie", store_lies.LISTINGS)
def test_a_list_is_a_lie(lie: str) -> None:
    number, text = EXPECTED_OF_LISTS[lie]
    empty = store_lies.page([])
    with lying(empty) as server, opened(*many(server, SHORT)) as export:
        server.answers["GET"] = store_lies.LISTINGS[lie]
        with growth() as grown, pytest.raises(OSError, match=text) as caught:
            list(export.extents(1 << 20, 0, 0))
        assert grown() < MOST_MEMORY
        check(caught.value, number)


@pytest.mark.parametrize("lie", store_lies.LISTINGS)
def test_a_client_comes_to_a_list_that_is_a_lie(lie: str) -> None:
    only_later = ("the same page again", "a token that is repeated", "endless pages")
    with lying(store_lies.LISTINGS[lie]) as server:
        if lie in only_later:  # one page is enough to see that there is a bucket
            with opened(*many(server, SHORT)):
                assert server.count("GET") == 1
            return
        with pytest.raises(OSError, match=EXPECTED_OF_LISTS[lie][1]) as caught:
            with opened(*many(server, SHORT)):
                pass
        check(caught.value, EXPECTED_OF_LISTS[lie][0])


def test_an_error_about_another_object_is_no_hole() -> None:
    other = store_lies.error(404, "NoSuchKey", "<Key>other</Key>")
    same = store_lies.error(404, "NoSuchKey", f"<Key>{store_lies.key(0)}</Key>")
    with lying(store_lies.page([])) as server, opened(*many(server)) as export:
        server.answers["GET"] = same
        assert export.pread(512, 0) == bytes(512)
        server.answers["GET"] = other
        with refused(errno.EIO, NONSENSE + "an error about another object, other"):
            export.pread(512, 0)
        server.answers["GET"] = saying(404, b"<html>a proxy's</html>")
        with refused(errno.ENOENT, "the store says 404 Not Found"):
            export.pread(512, 0)


def test_what_could_not_be_deleted_is_told() -> None:
    entries = [(store_lies.key(number), "512") for number in range(3)]
    denied = b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>"
    with lying(store_lies.page(entries)) as server:
        with opened(*many(server), read_only=False) as export:
            server.answers["POST"] = saying(200, denied)
            with refused(errno.EACCES, "these keys may not do this"):
                export.trim(2048, 0, 0)
            server.answers["POST"] = saying(200, b"<html>")
            with refused(errno.EIO, NONSENSE):
                export.trim(2048, 0, 0)
            server.answers["POST"] = saying(200, b"<DeleteResult/>")
            export.trim(2048, 0, 0)


def test_a_failure_that_passes() -> None:
    replies = in_turn(saying(503), saying(500), Request.send_part)
    with lying(replies) as server, opened(*disk(server)) as export:
        assert bytes(export.pread(512, 512)) == CONTENT[512:1024]
        assert server.count("GET") == 3


def test_a_read_ends_when_its_client_has_left() -> None:
    with lying(Request.stay_silent) as server:
        with serving() as client, opened(*disk(server)) as export:
            reading = client.begin(lambda: export.pread(512, 0))
            eventually(lambda: server.count("GET"))
            client.leave()
            with refused(errno.ESHUTDOWN, "nobody waits any more"):
                reading.result(SECONDS)


# -- how many requests there are ----------------------------------------------------------------


def test_a_read_of_many_objects_is_a_request_for_each_and_all_at_once() -> None:
    """None of them is answered before there are four."""

    def get(request: Request) -> None:
        if "list-type" in request.path:
            request.reply(200, store_lies.listing([]))
            return
        eventually(lambda: server.count("GET") >= 1 + 4)
        number = int(request.path[-16:], 16)
        part = bytes([number + 1]) * 512
        request.reply(206, part, {"Content-Range": "bytes 0-511/512"})

    with lying(get) as server, opened(*many(server)) as export:
        assert export.pread(2048, 0) == b"".join(bytes([n + 1]) * 512 for n in range(4))
        assert server.count("GET") == 1 + 4


def test_where_there_is_data_is_asked_once_for_a_thousand_objects() -> None:
    entries = [(store_lies.key(number), "512") for number in range(0, 2000, 2)]
    with lying(store_lies.page([])) as server, opened(*many(server)) as export:
        server.answers["GET"] = store_lies.page(entries)
        found = list(export.extents(1 << 20, 0, 0))
        assert len(found) == 2000
        assert found[:2] == [Extent(0, 512, 0), Extent(512, 512, HOLE | ZERO)]
        assert server.count("GET") == 2
