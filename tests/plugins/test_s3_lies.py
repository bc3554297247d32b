"""The s3 plugin and an object store that misbehaves as no real one would."""

import pytest

from tests.support.lying_web import Answer, Fields, LyingWeb, Request, in_turn
from tests.support.s3 import keys, opened

pytestmark = pytest.mark.usefixtures("no_keys_of_the_user")

CONTENT = bytes(512) + b"x" * 512 + bytes(3072)

GOOD = {"ETag": '"a"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}
"""What a store says of an object."""


def lying(get: Answer = Request.send_part, **answers: Answer) -> LyingWeb:
    return LyingWeb(CONTENT, GOOD, get=get, **answers)


def disk(server: LyingWeb) -> list[str]:
    return [f"endpoint-url={server.origin}", "bucket=disks", *keys(), "disk"]


def saying(status: int, body: bytes = b"", fields: Fields | None = None) -> Answer:
    return lambda request: request.reply(status, body, fields)


@pytest.mark.parametrize(
    ("get", "message"),
    [
        (lambda request: request.send_part({"ETag": '"b"'}), "the object is no longer the one"),
        (lambda request: request.send_part({"Content-Range": "bytes 0-511/4096"}), "disk: .*"),
        (Request.send_whole, "disk: .*"),
        (saying(403, b"<html>a proxy's</html>"), "the store says 403 Forbidden"),
        (saying(404, b"<html>a proxy's</html>"), "the store says 404 Not Found"),
        (saying(418), "the store says 418"),
    ],
    ids=["version", "range", "whole", "403", "404", "418"],
)
def test_a_reply_that_is_not_what_was_asked_for(get: Answer, message: str) -> None:
    with lying(get) as server, opened(*disk(server)) as export:
        with pytest.raises(OSError, match=message) as caught:
            export.pread(512, 512)
    assert "\n" not in str(caught.value)


def test_a_failure_that_passes() -> None:
    replies = in_turn(saying(503), saying(500), Request.send_part)
    with lying(replies) as server, opened(*disk(server)) as export:
        assert bytes(export.pread(512, 512)) == b"x" * 512
        assert server.count("GET") == 3
