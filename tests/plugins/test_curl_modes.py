"""What the curl plugin makes of each way in which a web server may lie, break or be slow."""

import errno
import os
import re
import time

import pycurl
import pytest
from nbdfork.plugins._web.transfer import always

from tests.support import web_lies
from tests.support.curl import opened
from tests.support.harness import SECONDS, eventually, refused
from tests.support.lying_web import Answer, LyingWeb, Request, in_turn
from tests.support.memory import growth
from tests.support.served import serving
from tests.support.told import check_told

CONTENT = os.urandom(1 << 20)
VERSION = {"ETag": '"a"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}

SHORT = "timeout=0.3"
"""Of so little time that a failure which may pass is tried again once."""

NONSENSE = "the far end says nonsense: "
CHANGED = "the file has changed: "
OTHER = "the reply is not the 4096 bytes at 4096 that were asked for"

EXPECTED: dict[str, tuple[int, str]] = {
    "206 in the reason only": (errno.EIO, "the server sends the whole file"),
    "a header that looks like a status line": (errno.ENOENT, "the server says 404 Not Found"),
    "no status": (errno.EIO, NONSENSE),
    "a status of letters": (errno.EIO, NONSENSE),
    "a status of 5,000 digits": (errno.EIO, NONSENSE + r"a status line HTTP/1.1 9{191}\.\.\.$"),
    "another protocol": (errno.EIO, NONSENSE),
    "HTTP/0.9": (errno.EIO, NONSENSE),
    "the whole file": (errno.EIO, "the server sends the whole file"),
    "no range": (errno.EIO, "the server does not say which part it sent"),
    "a range that is none": (errno.EIO, NONSENSE + "Content-Range: bytes all of it"),
    "a range backwards": (errno.EIO, NONSENSE + "Content-Range: bytes 9-3/99"),
    "a range of 5,000 digits": (errno.EIO, NONSENSE + r"Content-Range: bytes 9{194}\.\.\.$"),
    "a range that is negative": (errno.EIO, NONSENSE + "Content-Range: bytes -1--1/-1"),
    "the part before": (errno.EIO, "the server sent 4096 bytes at 4095, not 4096 at 4096"),
    "the part after": (errno.EIO, "the server sent 4096 bytes at 4097, not 4096 at 4096"),
    "a longer part": (errno.EIO, "the server sent 4097 bytes at 4096"),
    "a shorter part": (errno.EIO, "the server sent 4095 bytes at 4096"),
    "another size": (errno.EIO, CHANGED + "its size was 1048576 bytes and is 99999999"),
    "a size of 2^63": (errno.EIO, NONSENSE + "Content-Range: bytes 4096-8191/9223372036854775808"),
    "two ranges": (errno.EIO, NONSENSE + "content-range .* at once"),
    "several parts": (errno.EIO, "the server does not say which part it sent"),
    "a length of 2^63": (errno.EIO, NONSENSE + "Content-Length: 9223372036854775808"),
    "a length of 5,000 digits": (errno.EIO, NONSENSE + r"Content-Length: 9{200}\.\.\.$"),
    "a length of -1": (errno.EIO, NONSENSE + "Invalid Content-Length"),
    "a length that is none": (errno.EIO, NONSENSE + "Invalid Content-Length"),
    "content that is empty": (errno.EIO, OTHER),
    "content that is long": (errno.EIO, OTHER),
    "another ETag": (errno.EIO, CHANGED + 'its ETag was "a" and is "other"'),
    "no ETag": (errno.EIO, CHANGED + 'its ETag was "a" and is not told any more'),
    "an empty ETag": (errno.EIO, CHANGED + 'its ETag was "a" and is not told any more'),
    "another date": (errno.EIO, CHANGED + "its Last-Modified was Thu, 01 .* and is Fri, 02 "),
    "no date": (errno.EIO, CHANGED + "its Last-Modified was .* and is not told any more"),
    "two ETags": (errno.EIO, NONSENSE + 'etag "a" and "other" at once'),
    "gzip": (errno.EIO, NONSENSE + r"the file encoded \(gzip\)"),
    "an unknown encoding": (errno.EIO, NONSENSE + r"the file encoded \(x\\x1b\[31m\)"),
    "gzip for the transfer": (errno.EIO, NONSENSE),
    "a redirect to itself": (errno.EIO, NONSENSE + r"Maximum \(10\) redirects followed"),
    "a redirect to a file": (errno.EIO, NONSENSE + 'Protocol "file" is disabled'),
    "a redirect to ftp": (errno.EIO, NONSENSE + 'Protocol "ftp" is disabled'),
    "a redirect to nowhere": (errno.ECONNREFUSED, "Failed to connect to 127.0.0.1"),
    "a redirect to nonsense": (errno.EIO, "redirect target URL could not be parsed"),
    "a redirect without a place": (errno.EIO, "302 Found, a redirect to nowhere, is not followed"),
    "endless content": (errno.EIO, OTHER),
    "endless chunks": (errno.EIO, OTHER),
    "an endless error": (errno.EACCES, "the server says 403 Forbidden"),
    "an endless header": (errno.EIO, "larger than allowed"),
    **web_lies.TOLD_BY_LIBCURL,
}

MOST_MEMORY = 16 << 20
"""How much a read of 4096 bytes may take at the most, in bytes, whatever is announced or sent."""


def disk(server: LyingWeb) -> str:
    return f"{server.origin}/disk"


def test_each_lie_is_listed() -> None:
    assert EXPECTED.keys() == web_lies.LIES.keys()


@pytest.mark.parametrize("lie", web_lies.LIES)
def test_the_first_read_is_lied_to(lie: str) -> None:
    number, text = EXPECTED[lie]
    with LyingWeb(CONTENT, VERSION, get=web_lies.LIES[lie]) as server:
        with opened(disk(server), SHORT) as export:
            with growth() as grown, pytest.raises(OSError, match=text) as caught:
                export.pread(4096, 4096)
            assert grown() < MOST_MEMORY
            check_told(caught.value, f"{disk(server)}: ", number)


@pytest.mark.parametrize("lie", web_lies.LIES)
def test_a_later_read_is_lied_to(lie: str) -> None:
    """The replies before it were good: it must not be taken for one like them."""
    answers = in_turn(Request.send_part, Request.send_part, web_lies.LIES[lie])
    with LyingWeb(CONTENT, VERSION, get=answers) as server:
        with opened(disk(server), SHORT) as export:
            for offset in (0, 4096):
                assert export.pread(4096, offset) == CONTENT[offset : offset + 4096]
            with pytest.raises(OSError, match=EXPECTED[lie][1]) as caught:
                export.pread(4096, 4096)
            assert caught.value.errno == EXPECTED[lie][0]


@pytest.mark.parametrize("lie", web_lies.LIES)
def test_a_client_that_comes_is_lied_to(lie: str) -> None:
    """There is no HEAD, so a first byte is asked for; nothing can be compared yet."""
    no_head = web_lies.saying_only(405)
    with LyingWeb(CONTENT, VERSION, get=web_lies.LIES[lie], head=no_head) as server:
        with growth() as grown:
            if lie in (*web_lies.VERSIONS, "another size") and lie != "two ETags":
                with opened(disk(server), SHORT) as export:
                    size = export.get_size()
                assert size == (99999999 if lie == "another size" else len(CONTENT))
            else:
                with pytest.raises(OSError, match=f"^\\[Errno \\d+\\] {disk(server)}: "):
                    with opened(disk(server), SHORT):
                        pass
        assert grown() < MOST_MEMORY


@pytest.mark.parametrize("way", web_lies.GOOD)
def test_a_reply_that_is_right(way: str) -> None:
    with LyingWeb(CONTENT, VERSION, get=web_lies.GOOD[way]) as server:
        with opened(disk(server)) as export:
            for offset in (4096, 0, 4096):
                assert export.pread(4096, offset) == CONTENT[offset : offset + 4096]
        assert server.count("GET") == 3


def test_a_reply_that_is_cut_at_any_byte() -> None:
    replies: list[bytes] = []

    def note(request: Request) -> None:
        replies.append(web_lies.raw(request))
        request.send_raw(replies[0])

    with LyingWeb(CONTENT, VERSION, get=note) as server:
        with opened(disk(server), "timeout=0.09") as export:  # too short for a second attempt
            assert export.pread(16, 512) == CONTENT[512:528]
            for cut in web_lies.cuts(replies[0]):
                server.answers["GET"] = cut
                with pytest.raises(OSError, match="/disk: "):
                    export.pread(16, 512)
            server.answers["GET"] = Request.send_part
    assert server.count("GET") >= len(replies[0])


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (web_lies.telling(Content_Length=str(1 << 63)), NONSENSE),
        (web_lies.telling(Content_Length=web_lies.NUMBER), NONSENSE),
        (web_lies.telling(Content_Length="-1"), NONSENSE),
        (web_lies.telling(Content_Encoding="gzip"), NONSENSE),
        (web_lies.telling(Accept_Ranges="none"), "the server only sends the whole file"),
        (Request.stay_silent, "timed out after 3"),
    ],
    ids=["2^63", "5,000 digits", "-1", "gzip", "no ranges", "silent"],
)
def test_what_is_told_of_the_file_is_a_lie(head: Answer, text: str) -> None:
    with LyingWeb(CONTENT, VERSION, head=head) as server:
        with pytest.raises(OSError, match=text), opened(disk(server), SHORT):
            pass
        assert server.count("GET") == 0


def test_a_version_that_only_the_first_read_tells() -> None:
    """From then on it is known."""
    lie = in_turn(web_lies.saying(ETag='"a"'), web_lies.saying(ETag='"b"'))
    with LyingWeb(CONTENT, get=lie) as server, opened(disk(server)) as export:
        assert export.pread(16, 0) == CONTENT[:16]
        with pytest.raises(OSError, match='its ETag was "a" and is "b"'):
            export.pread(16, 0)


def test_the_handshake_of_tls_is_silent() -> None:
    with LyingWeb(CONTENT) as server:
        began = time.monotonic()
        url = disk(server).replace("http:", "https:")
        server.answers = {}  # it waits for a line that never ends
        with pytest.raises(OSError, match=r"timed out|SSL") as caught, opened(url, SHORT):
            pass
        assert time.monotonic() - began < 5
        assert caught.value.errno in (errno.ETIMEDOUT, errno.EIO)


def test_no_secret_is_told() -> None:
    with LyingWeb(CONTENT, get=web_lies.redirecting("ftp://me:SECRET@127.0.0.1/?SECRET")) as server:
        url = disk(server).replace("http://", "http://me:SECRET@") + "?token=SECRET"
        with opened(url, SHORT) as export, pytest.raises(OSError, match="nonsense") as caught:
            export.pread(1, 0)
    assert not re.search("SECRET", str(caught.value))


def test_a_redirect_is_followed_once_and_again_when_its_target_fails() -> None:
    where = ["/first"]

    def get(request: Request) -> None:
        if request.path == "/disk":
            request.reply(302, fields={"Location": where[0]})
        elif request.path == where[0]:
            request.send_part()
        else:
            request.reply(403)

    with LyingWeb(CONTENT, VERSION, get=get) as server, opened(disk(server)) as export:
        for offset in range(0, 5 * 16, 16):
            assert export.pread(16, offset) == CONTENT[offset : offset + 16]
        paths = [asked.path for asked in server.asked if asked.method == "GET"]
        assert paths == ["/disk", *["/first"] * 5]
        where[0] = "/second"  # as the links of stores do that expire
        server.asked.clear()
        for offset in range(0, 3 * 16, 16):
            assert export.pread(16, offset) == CONTENT[offset : offset + 16]
        paths = [asked.path for asked in server.asked]
        assert paths == ["/first", "/disk", *["/second"] * 3]


def test_secrets_are_not_sent_to_the_server_that_a_redirect_leads_to() -> None:
    def check(request: Request) -> None:
        assert request.headers["X-Mine"] == "yes"
        request.send_part()

    with LyingWeb(CONTENT, VERSION, get=check) as far:
        with LyingWeb(CONTENT, VERSION, get=web_lies.redirecting(f"{far.origin}/there")) as server:
            secrets = (
                "user=me",
                "password=SECRET",
                "header=Authorization: SECRET",
                "cookie=a=SECRET",
            )
            with opened(disk(server), *secrets, "header=X-Mine: yes") as export:
                for _ in range(3):
                    assert export.pread(16, 16) == CONTENT[16:32]
            assert server.count("GET") == 1
            assert "SECRET" in str(server.asked[-1].fields)
        assert [asked.path for asked in far.asked] == ["/there"] * 3
        assert "SECRET" not in str(far.asked)


def test_a_read_ends_when_its_client_has_left() -> None:
    with LyingWeb(CONTENT, get=Request.stay_silent) as server:
        with serving() as client, opened(disk(server)) as export:
            reading = client.begin(lambda: export.pread(512, 0))
            eventually(lambda: server.count("GET"))
            client.leave()
            with refused(errno.ESHUTDOWN, "nobody waits any more"):
                reading.result(SECONDS)


def test_without_a_timeout_a_far_end_has_half_a_minute() -> None:
    options = {option.number: option.value for option in always(30.0)}
    assert options[pycurl.CONNECTTIMEOUT_MS] == 30_000
    assert options[pycurl.LOW_SPEED_TIME] == 30
