"""The curl plugin and web servers that misbehave as no real one would."""

import errno
import os
import threading

import pytest

from tests.support.curl import MIB, opened, reads
from tests.support.harness import SECONDS, refused
from tests.support.lying_web import Answer, LyingWeb, Request, first_times
from tests.support.noise import CONTENT


def lying(get: Answer = Request.send_part, **answers: Answer) -> LyingWeb:
    return LyingWeb(CONTENT, get=get, **answers)


def disk(server: LyingWeb) -> str:
    return f"{server.origin}/disk"


@pytest.mark.parametrize(
    "bad",
    [
        Request.cut_off,
        Request.hang_up,
        lambda request: request.reply(503),
        lambda request: request.reply(500, b"an error page that is longer than the part" * 99),
    ],
    ids=["cut-off", "no-reply", "503", "500"],
)
def test_a_failure_that_passes(bad: Answer) -> None:
    with lying(first_times(2, bad)) as server:
        assert reads(disk(server))
        assert server.count("GET") == 3


def test_a_failure_that_does_not_pass() -> None:
    with lying(lambda request: request.reply(503)) as server, opened(disk(server)) as export:
        with refused(errno.EIO, "503 Service Unavailable"):
            export.pread(512, 0)
        assert server.count("GET") == 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Request.send_whole, "sends the whole file when asked for a part"),
        (lambda request: request.reply(206, bytes(4096)), "does not say which part it sent"),
        (
            lambda request: request.send_part({"Content-Range": f"bytes 0-4095/{len(CONTENT)}"}),
            f"the server sent 4096 bytes at 0, not 4096 at {MIB + 1}",
        ),
        (
            lambda request: request.send_part({"Content-Range": "bytes 0-99/*"}),
            f"the server sent 100 bytes at 0, not 4096 at {MIB + 1}",
        ),
        (lambda request: request.reply(404), "the server says 404 Not Found"),
        (lambda request: request.reply(999), "the server says 999"),
    ],
    ids=["whole", "unnamed", "elsewhere", "less", "404", "999"],
)
def test_a_reply_that_is_not_what_was_asked_for(bad: Answer, message: str) -> None:
    with lying(bad) as server, pytest.raises(OSError, match=message):
        reads(disk(server))


def test_a_part_that_is_longer_than_it_says() -> None:
    def too_much(request: Request) -> None:
        first, last = request.part()
        request.send_part(body=CONTENT[first : last + 2])

    with lying(first_times(1, too_much)) as server:
        assert reads(disk(server))
    with lying(too_much) as server, refused(errno.EIO, "the reply is not the"):
        reads(disk(server))


def test_a_version_that_changes_between_reads() -> None:
    with LyingWeb(CONTENT, {"ETag": '"a"'}) as server, opened(disk(server)) as export:
        for _ in range(2):
            assert bytes(export.pread(99, 7)) == CONTENT[7:106]
        server.fields["ETag"] = '"b"'
        with refused(errno.EIO, 'its ETag was "a" and is "b"'):
            export.pread(99, 7)


def test_a_server_without_head() -> None:
    with lying(head=lambda request: request.reply(405)) as server:
        assert reads(disk(server))
        assert server.count("GET") == 2


def test_a_server_that_does_not_tell_the_size() -> None:
    def get(request: Request) -> None:
        request.send_part({"Content-Range": "bytes 0-0/*"})

    with lying(get, head=lambda request: request.reply(405)) as server:
        with refused(errno.EIO, "does not tell the file's size"):
            reads(disk(server))


def test_a_server_that_is_too_slow() -> None:
    done = threading.Event()

    with lying(lambda _: done.wait(SECONDS)) as server:
        with opened(disk(server), "timeout=1") as export:
            with refused(errno.ETIMEDOUT, "timed out"):
                export.pread(1, 0)
        done.set()


def test_a_proxy() -> None:
    with lying() as server:
        proxy = f"proxy={server.origin}"
        assert reads("http://far.invalid/disk", proxy, "proxy-user=u", "proxy-password=p")
        asked = server.asked[-1]
    assert asked.path == "http://far.invalid/disk"
    assert asked.fields["proxy-authorization"] == "Basic dTpw"


def test_a_redirect_to_another_kind_of_server() -> None:
    def elsewhere(request: Request) -> None:
        request.reply(302, fields={"Location": "ftp://127.0.0.1/disk"})

    with lying(elsewhere, head=elsewhere) as server, refused(errno.EIO, '"ftp" is disabled'):
        reads(disk(server))


def test_a_server_that_takes_a_part_for_the_whole() -> None:
    def now_short(request: Request) -> None:
        size = len(server.bodies("PUT")[-1]) if server.count("PUT") else len(CONTENT)
        request.reply(200, bytes(size), {"Accept-Ranges": "bytes"})

    with lying(head=now_short) as server:
        with opened(disk(server), read_only=False) as export:
            with refused(errno.EIO, "the server took 512 bytes for the whole file.*use -r"):
                export.pwrite(memoryview(bytes(512)), 512, 0)
        [put] = [asked for asked in server.asked if asked.method == "PUT"]
    assert put.fields["content-range"] == f"bytes 512-1023/{len(CONTENT)}"
    assert put.body == bytes(512)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_write_that_is_redirected(status: int) -> None:
    """After 303, libcurl only looks at the other place, which is no write."""

    def put(request: Request) -> None:
        if request.path == "/disk":
            request.reply(status, fields={"Location": "/other"})
        else:
            request.reply(204)

    def get(request: Request) -> None:
        request.send_part() if "Range" in request.headers else request.reply(200, b"log in, please")

    data = os.urandom(512)
    with lying(get, put=put) as server:
        with opened(disk(server), read_only=False) as export:
            if status == 303:
                with refused(errno.EIO, "redirects the write to where nothing can be"):
                    export.pwrite(memoryview(data), 512, 0)
                assert bytes(export.pread(512, 512)) == CONTENT[512:1024]  # the client goes on
            else:
                export.pwrite(memoryview(data), 512, 0)
        written = [one.body for one in server.asked if (one.method, one.path) == ("PUT", "/other")]
    assert written == ([] if status == 303 else [data])
