"""A flush that succeeds means what it says, though the far end has lost what was not flushed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.far import Far
from tests.support.harness import NBDFORK, Server
from tests.support.libnbd import connected, fails, libnbd
from tests.support.paths import SAMPLES

SIZE = 1 << 20
BLOCK = b"written " * 512


@pytest.fixture
def far() -> Iterator[Far]:
    """A server whose cache is lost when it is killed, in a directory with a short name."""
    libnbd()
    with tempfile.TemporaryDirectory(prefix="nbdfork-far") as name:
        disk, path = Path(name) / "disk", Path(name) / "far"
        disk.write_bytes(bytes(SIZE))
        words = ["-f", "-n", "-U", str(path), str(SAMPLES / "forgetful.py"), str(disk)]
        with Far(path, *NBDFORK, *words) as far:
            yield far


def crash(far: Far) -> None:
    far.kill()
    far.start()


@pytest.mark.parametrize("writer_stays", [True, False], ids=["stays", "leaves"])
def test_who_may_rely_on_the_flushes_of_others_is_told(far: Far, writer_stays: bool) -> None:
    """With a shared link, B's flush is to cover A's write: it fails, whether or not A is there."""
    with Server("-n", "nbd", far.uri, "shared=true") as server:
        with connected(server.uri) as keeper:
            writer = libnbd().NBD()
            writer.connect_uri(server.uri)
            writer.pwrite(BLOCK, 0)
            if not writer_stays:
                writer.shutdown()
            crash(far)
            keeper.pread(512, 0)  # the link is made again
            with connected(server.uri) as other:
                assert other.can_multi_conn()
                with fails("EIO"):
                    other.flush()
                other.flush()
                assert other.pread(len(BLOCK), 0) == bytes(len(BLOCK))
            if writer_stays:
                with fails("EIO"):
                    writer.flush()
                writer.shutdown()


def test_who_may_not_rely_on_the_flushes_of_others_knows(far: Far) -> None:
    """With a link each, nobody is promised more than a link knows, nor told of others' losses."""
    with Server("-n", "nbd", far.uri) as server:
        with connected(server.uri) as writer, connected(server.uri) as other:
            writer.pwrite(BLOCK, 0)
            crash(far)
            assert not other.can_multi_conn()
            other.flush()  # it has lost nothing
            with fails("EIO"):
                writer.flush()
            writer.pwrite(BLOCK, 0)
            writer.flush()
            crash(far)
            assert writer.pread(len(BLOCK), 0) == BLOCK
            writer.flush()


def test_who_only_reads_may_use_many_connections(far: Far) -> None:
    with Server("-n", "-r", "nbd", far.uri) as server, connected(server.uri) as reader:
        assert reader.can_multi_conn()


def test_fua_needs_no_flush(far: Far) -> None:
    with Server("-n", "nbd", far.uri) as server, connected(server.uri) as writer:
        writer.pwrite(BLOCK, 0, flags=libnbd().CMD_FLAG_FUA)
        crash(far)
        writer.flush()
        assert writer.pread(len(BLOCK), 0) == BLOCK
