"""What the nbd plugin makes of each way in which an NBD server may lie, break or be slow."""

import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from nbdfork.plugins.nbd.pipeline import NbdPipeline

from nbdfork.plugin import Export, Unfinished
from tests.support import nbd_lies
from tests.support.harness import SECONDS, Server, eventually, is_alive, refused
from tests.support.libnbd import connected, fails, libnbd
from tests.support.lying_nbd import Answer, Asked, Conversation, LyingNbd
from tests.support.memory import growth
from tests.support.nbd import opened, plugin
from tests.support.noise import noise
from tests.support.piped import WAYS
from tests.support.served import serving
from tests.support.told import check_told

pytestmark = pytest.mark.usefixtures("needs_libnbd")

CONTENT = noise(1 << 20)

NONSENSE = "the far end says nonsense: "
LOST = "the connection is lost: "
GAP = NONSENSE + "a reply without byte"
NO_EXTENTS = NONSENSE + "a reply without any extents"
SLOW = "the server has not answered for 0.2 seconds"
SILENT = LOST + "the far end has been silent for 0.2 s"
HUNG_UP = "server closed the connection|disconnected|reset by peer|Broken pipe|sending failed"

AT_OPEN: dict[str, tuple[int, str]] = {
    "no magic": (errno.EIO, NONSENSE),
    "half a magic": (errno.EIO, NONSENSE),
    "a greeting that hangs up": (errno.EIO, HUNG_UP),
    "a greeting that is silence": (errno.ETIMEDOUT, SLOW),
    "options that are silence": (errno.ETIMEDOUT, SLOW),
    "contexts that are silence": (errno.ETIMEDOUT, SLOW),
    "GO that is silence": (errno.ETIMEDOUT, SLOW),
    "GO that drips": (errno.ETIMEDOUT, SLOW),
    "GO that hangs up": (errno.EIO, HUNG_UP),
    "another magic of an option": (errno.EIO, NONSENSE),
    "a reply to another option": (errno.EIO, NONSENSE),
    "an unknown reply": (errno.EIO, NONSENSE),
    "GO without a size": (errno.EIO, NONSENSE + "no size"),
    "no flags": (errno.EIO, NONSENSE),
    "a size of 2^63": (errno.EIO, NONSENSE + "a size of 9223372036854775808 bytes"),
    "a size of 2^64-1": (errno.EIO, NONSENSE + "no size, or one of 2\\^64-1 bytes"),
    "no such export": (errno.ENOENT, "has no export named"),
    "a policy": (errno.EACCES, "policy prevents"),
    "endless information": (errno.EIO, NONSENSE + "a handshake without an end"),
    "endless contexts": (errno.EIO, NONSENSE + "a handshake without an end"),
    "a context of 4 MB": (errno.EIO, NONSENSE),
    "a reply of 4 GB": (errno.EIO, NONSENSE),
}

AT_READ: dict[str, tuple[int, str]] = {
    "another magic": (errno.EIO, LOST + NONSENSE),
    "another cookie": (errno.EIO, LOST + NONSENSE + "no matching cookie"),
    "a simple reply with data": (errno.EIO, LOST + NONSENSE),
    "data from before": (errno.EIO, LOST + NONSENSE),
    "data from after": (errno.EIO, LOST + NONSENSE),
    "data far away": (errno.EIO, LOST + NONSENSE),
    "a byte too many": (errno.EIO, LOST + NONSENSE),
    "a byte too few": (errno.EIO, f"{GAP} 8191 of the 4096 bytes from 4096 on"),
    "one half": (errno.EIO, f"{GAP} 6144 "),
    "the other half": (errno.EIO, f"{GAP} 4096 "),
    "one half twice": (errno.EIO, f"{GAP} 6144 "),
    "halves that overlap": (errno.EIO, NONSENSE + "more than the 4096 bytes"),
    "no data": (errno.EIO, f"{GAP} 4096 "),
    "NONE with something": (errno.EIO, LOST + NONSENSE),
    "a hole that is larger": (errno.EIO, LOST + NONSENSE),
    "a hole before": (errno.EIO, LOST + NONSENSE),
    "a hole of no length": (errno.EIO, NONSENSE),
    "a hole that is cut off": (errno.EIO, LOST + NONSENSE),
    "data without an offset": (errno.EIO, LOST + NONSENSE),
    "an unknown chunk": (errno.EIO, LOST + NONSENSE),
    "extents instead of data": (errno.EIO, LOST + NONSENSE),
    "error 0": (errno.EINVAL, "the server says: Invalid argument"),
    "error 999": (errno.EINVAL, "the server says: Invalid argument"),
    "an error with escapes": (errno.EIO, "the server says: Input/output error"),
    "an error with too long a text": (errno.EIO, LOST + NONSENSE),
    "a chunk of 4 GB": (errno.EIO, LOST + NONSENSE),
    "endless data": (errno.EIO, NONSENSE + "more than the 4096 bytes"),
    "endless holes": (errno.EIO, NONSENSE + "more than the 4096 bytes"),
    "endless errors": (errno.ETIMEDOUT, LOST),
    "a reply that hangs up": (errno.EIO, HUNG_UP),
    "a reply that is silence": (errno.ETIMEDOUT, SILENT),
}

AT_EXTENTS: dict[str, tuple[int, str]] = {
    "an extent of no length": (errno.EIO, NONSENSE + "an extent of no length"),
    "extents of another context": (errno.EIO, NO_EXTENTS),
    "no extents": (errno.EIO, LOST + NONSENSE),
    "no chunk of extents": (errno.EIO, NO_EXTENTS),
    "half an extent": (errno.EIO, LOST + NONSENSE),
    "two chunks of extents": (errno.EIO, NONSENSE + "more than one chunk"),
    "endless extents": (errno.EIO, NONSENSE + "more than one chunk"),
    "data instead of extents": (errno.EIO, LOST + NONSENSE),
    "a chunk of extents of 4 GB": (errno.EIO, LOST + NONSENSE),
    "extents that are silence": (errno.ETIMEDOUT, SILENT),
}

AT_LIST: dict[str, tuple[int, str]] = {
    "a name that is cut off": (errno.EIO, "the far end says nonsense"),
    "a name of 5,000 bytes": (errno.EIO, "the far end says nonsense"),
    "a list that is silence": (errno.ETIMEDOUT, SLOW),
    "a list that hangs up": (errno.EIO, HUNG_UP + "|or has hung up"),
    "a list that is refused": (errno.EOPNOTSUPP, "the server says: Operation not supported"),
    "a list of something else": (errno.EIO, "the far end says nonsense"),
}

MOST_MEMORY = 16 << 20
"""How much what is small may take at the most, in bytes, whatever is announced or sent."""

SHORT = "timeout=0.2"


def check(caught: OSError, server: LyingNbd, number: int) -> None:
    check_told(caught, f"{server.path}: ", number)


def test_each_lie_is_listed() -> None:
    assert AT_OPEN.keys() == nbd_lies.HANDSHAKES.keys()
    assert AT_READ.keys() == nbd_lies.READS.keys()
    assert AT_EXTENTS.keys() == nbd_lies.EXTENTS.keys()
    assert AT_LIST.keys() == nbd_lies.LISTS.keys()


@pytest.mark.parametrize("lie", nbd_lies.HANDSHAKES)
def test_a_client_that_opens_the_export_is_lied_to(lie: str) -> None:
    with LyingNbd(CONTENT, nbd_lies.HANDSHAKES[lie]) as server, growth() as grown:
        with (
            pytest.raises(OSError, match=AT_OPEN[lie][1]) as caught,
            opened(f"socket={server.path}", SHORT),
        ):
            pass
        check(caught.value, server, AT_OPEN[lie][0])
        assert grown() < MOST_MEMORY


@pytest.mark.parametrize("lie", nbd_lies.HARMLESS)
def test_a_lie_that_harms_nobody(lie: str) -> None:
    with LyingNbd(CONTENT, nbd_lies.HARMLESS[lie]) as server:
        with opened(f"socket={server.path}", SHORT) as export:
            assert bytes(export.pread(4096, 4096)) == CONTENT[4096:8192]
            assert export.description().isprintable()


def read(export: Export) -> object:
    return export.pread(4096, 4096)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lie", nbd_lies.READS)
def test_a_read_is_lied_to(lie: str, way: str) -> None:
    with LyingNbd(CONTENT, nbd_lies.READS[lie]) as server:
        words = (f"socket={server.path}", SHORT)
        with opened(*words) as made, WAYS[way](made) as export, growth() as grown:
            with pytest.raises(OSError, match=AT_READ[lie][1]) as caught:
                export.pread(4096, 4096)
            check(caught.value, server, AT_READ[lie][0])
            assert grown() < MOST_MEMORY


@pytest.mark.parametrize("lie", nbd_lies.EXTENTS)
def test_who_asks_for_extents_is_lied_to(lie: str) -> None:
    with LyingNbd(CONTENT, nbd_lies.EXTENTS[lie]) as server:
        with opened(f"socket={server.path}", SHORT) as export, growth() as grown:
            with pytest.raises(OSError, match=AT_EXTENTS[lie][1]) as caught:
                export.extents(4096, 4096, 0)
            check(caught.value, server, AT_EXTENTS[lie][0])
            assert grown() < MOST_MEMORY


def test_extents_that_are_too_many_or_too_long() -> None:
    with LyingNbd(CONTENT, nbd_lies.MANY_EXTENTS) as server:
        with opened(f"socket={server.path}") as export:
            assert len(list(export.extents(1 << 20, 0, 0))) == 65536
            assert len(list(export.extents(512, 0, 0))) == 512
    lie = {"status": nbd_lies.extents(2**32 - 1, 2**32 - 1, 9, 9)}
    with LyingNbd(CONTENT, lie) as server, opened(f"socket={server.path}") as export:
        assert list(export.extents(4096, 4096, 0)) == [(4096, 2**32 - 1, 3)]


# -- lists of exports -------------------------------------------------------------------------


def listed(server: LyingNbd) -> list[tuple[str, str]]:
    made = plugin(f"socket={server.path}", "dynamic-export=true", SHORT)
    return [(str(name), text) for name, text in made.list_exports(True)]


@pytest.mark.parametrize("lie", nbd_lies.LISTS)
def test_who_asks_for_a_list_is_lied_to(lie: str) -> None:
    number, text = AT_LIST[lie]
    with LyingNbd(CONTENT, nbd_lies.LISTS[lie]) as server, refused(number, text):
        listed(server)


@pytest.mark.parametrize(
    ("lie", "most"),
    [(nbd_lies.ENDLESS_LIST, 10_000), (nbd_lies.ENDLESS_LONG_LIST, 1048)],
    ids=["short", "long"],
)
def test_a_list_without_an_end(
    lie: Mapping[str, Answer], most: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with LyingNbd(CONTENT, lie) as server, growth() as grown:
        assert len(listed(server)) == most
        assert grown() < 2 * MOST_MEMORY
        assert f"the server lists too many exports: {most} of them are shown" in caplog.text


def test_names_and_descriptions_that_nobody_can_read() -> None:
    entries = [nbd_lies.entry(b"\xff\xfe"), nbd_lies.entry(b"good", b"a\n\x1b[31mb")]
    entries.append(nbd_lies.entry(b"better", "ein Bär".encode()))
    with LyingNbd(CONTENT, {"list": nbd_lies.listing(*entries)}) as server:
        assert listed(server) == [("good", r"a \x1b[31mb"), ("better", "ein Bär")]


# -- cut and silent at every byte -------------------------------------------------------------


def outcome(server: LyingNbd, way: str = "methods") -> bytes | OSError:
    try:
        with opened(f"socket={server.path}", "timeout=0.1") as export:
            with WAYS[way](export) as reached:
                return bytes(reached.pread(16, 4096))
    except OSError as error:
        return error


@pytest.mark.parametrize("way", WAYS)
def test_a_conversation_that_is_cut_at_any_byte(way: str) -> None:
    for limit in range(1, 1000):
        with LyingNbd(CONTENT, limit=limit) as server:
            found = outcome(server, way)
        if isinstance(found, bytes):
            break
        assert found.errno == errno.EIO
    assert found == CONTENT[4096:4112]
    assert limit > 100


def test_a_conversation_that_falls_silent_at_any_byte() -> None:
    def silent_after(limit: int) -> bytes | OSError:
        with LyingNbd(CONTENT, limit=limit, then_silent=True) as server:
            return outcome(server)

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(silent_after, range(1, 220)))
    errors = [one for one in found if isinstance(one, OSError)]
    assert {error.errno for error in errors} == {errno.ETIMEDOUT}
    assert len(errors) > 100
    assert all(one == CONTENT[4096:4112] for one in found if isinstance(one, bytes))
    assert found[-1] == CONTENT[4096:4112]


# -- nobody waits any more --------------------------------------------------------------------


@pytest.mark.parametrize("shared", ["false", "true"])
def test_a_client_that_leaves_while_the_server_is_silent(shared: str) -> None:
    with LyingNbd(CONTENT, {"read": nbd_lies.silent}) as server, serving() as client:
        made = plugin(f"socket={server.path}", f"shared={shared}", "timeout=60")
        with closing(made.open("", True)) as export:
            reading = [client.begin(lambda: read(export)) for _ in range(2)]
            eventually(lambda: server.asked["read"])
            client.leave()
            for one in reading:
                with refused(errno.ESHUTDOWN, "nobody waits"):
                    one.result(SECONDS)


def test_a_client_that_leaves_while_it_is_connected() -> None:
    with LyingNbd(CONTENT, {"go": nbd_lies.silent}) as server, serving() as client:
        made = plugin(f"socket={server.path}", "timeout=60")
        opening = client.begin(lambda: made.open("", True))
        eventually(lambda: server.asked["go"])
        client.leave()
        with refused(errno.ESHUTDOWN, "the client has left"):
            opening.result(SECONDS)


def test_who_shares_a_connection_does_not_lose_it_with_another_client() -> None:
    quiet = threading.Event()

    def answer(talk: Conversation, asked: Asked) -> None:
        if asked.offset or quiet.wait(SECONDS):
            talk.read(asked)

    with LyingNbd(CONTENT, {"read": answer}) as server, serving() as client:
        made = plugin(f"socket={server.path}", "shared=true")
        with closing(made.open("", True)) as other:
            left = client.begin(lambda: made.open("", True)).result(SECONDS)
            reading = client.begin(lambda: left.pread(512, 0))
            eventually(lambda: server.asked["read"])
            client.leave()
            with refused(errno.ESHUTDOWN, "nobody waits"):
                reading.result(SECONDS)
            quiet.set()
            left.close()
            with serving() as later:
                found = later.begin(lambda: other.pread(512, 512)).result(SECONDS)
                assert bytes(found) == CONTENT[512:1024]
        assert server.connections == 1


def test_who_is_busy_with_a_slow_client_does_not_take_that_for_silence_of_the_server() -> None:
    """The one thread that serves both may have to wait until a reply is taken."""
    with LyingNbd(CONTENT, {"read": nbd_lies.silent}) as server:
        with opened(f"socket={server.path}", "timeout=60") as export:
            pipeline = export.pipeline()
            assert isinstance(pipeline, NbdPipeline)
            remote = pipeline.current()
            results: list[object] = []
            assert pipeline.read(512, 0, results.append)
            pipeline.proceed({})  # it is away now
            remote.look(0.0)
            pipeline.proceed(_ready(pipeline, 0))
            assert results == []
            pipeline.awaits()  # it is back
            remote.look(0.0)
            pipeline.proceed(_ready(pipeline, SECONDS))
            assert [type(result) for result in results] == [Unfinished]
            pipeline.close()


def _ready(pipeline: NbdPipeline, seconds: float) -> dict[int, int]:
    """Return what has come within some seconds of what the pipeline awaits."""
    poll = select.poll()
    for fd, events in pipeline.awaits().items():
        poll.register(fd, events)
    return dict(poll.poll(seconds * 1000))


# -- what a server in front of it does --------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("no such export", "has no export named"),
        ("a size of 2^63", "the far end says nonsense: a size of 9223372036854775808 bytes"),
        ("GO that is silence", "the server has not answered for 0.2 seconds"),
        ("no magic", "the far end says nonsense: "),
    ],
)
def test_the_log_says_once_why_there_is_no_export(lie: str, said: str) -> None:
    with LyingNbd(CONTENT, nbd_lies.HANDSHAKES[lie]) as far:
        with Server("-n", "nbd", f"socket={far.path}", SHORT) as server:
            with pytest.raises(Exception, match="nbd_connect_uri"), connected(server.uri):
                pass
            eventually(lambda: said in server.log)
            assert server.log.count(said) == 1
            assert str(far.path) in server.log
            assert "bug" not in server.log


def test_a_worker_ends_with_its_client_and_its_memory_is_bounded() -> None:
    lies = {**nbd_lies.READS["a reply that is silence"], **nbd_lies.EXTENTS["endless extents"]}
    with LyingNbd(CONTENT, lies) as far:
        with Server("-n", "nbd", f"socket={far.path}", "timeout=60") as server:
            client = libnbd().NBD()
            client.add_meta_context("base:allocation")
            client.connect_uri(server.uri)
            [worker] = server.serving()
            before = worker.memory_info().rss
            with fails("EIO"):
                client.block_status(4096, 0, lambda *_: 0)
            assert worker.memory_info().rss - before < MOST_MEMORY
            client.aio_pread(bytearray(512), 0)
            eventually(lambda: far.asked["read"])
            with socket.socket(fileno=os.dup(client.aio_get_fd())) as link:
                link.shutdown(socket.SHUT_RDWR)
            eventually(lambda: not is_alive(worker))
