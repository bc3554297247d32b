"""The filters that keep what a disk has said: cache, cacheextents, readahead and scan."""

import errno
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdfork.backend.gate import Gate
from nbdfork.filters._overlay import Overlays
from nbdfork.filters._room import Room
from nbdfork.filters.scan import Scan
from nbdfork.plugin import REQ_ONE, BlockSize, Extent, Support
from tests.support.beside import compare, random_script
from tests.support.disks import BLOCK, KIB, MIB, SIZE, Disk, exports, gate
from tests.support.harness import Server, eventually, refused
from tests.support.libnbd import connect, connected, libnbd
from tests.support.model import carry_out, requests
from tests.support.noise import noise

SMALL = "cache-min-block-size=4k"


@settings(max_examples=80, deadline=None)
@given(
    script=st.lists(requests(SIZE), max_size=25),
    mode=st.sampled_from(["writeback", "writethrough", "unsafe"]),
    minimum=st.sampled_from([1, 512]),
    limited=st.booleans(),
    on_read=st.booleans(),
)
def test_a_cache_is_a_disk_and_a_flush_brings_it_down(
    script: list[tuple[str, int, int, int]], mode: str, minimum: int, limited: bool, on_read: bool
) -> None:
    size = SIZE - SIZE % minimum
    disk = Disk(noise(size), minimum)
    arguments = [SMALL, f"cache={mode}", f"cache-on-read={on_read}".lower()]
    if limited:
        arguments += ["cache-max-size=16k", "cache-high-threshold=50", "cache-low-threshold=25"]
    found = exports(disk, "cache", *arguments)
    clients = [found.open(""), found.open("")]
    model = bytearray(noise(size))
    for number, (operation, count, offset, byte) in enumerate(script):
        count -= count % minimum
        offset -= offset % minimum
        if operation == "trim":  # of which parts of blocks are left as they are
            offset -= offset % BLOCK
            count -= count % BLOCK
        if count:
            carry_out(clients[number % 2], model, (operation, count, offset, byte))
    assert clients[0].pread(size, 0) == model
    clients[1].flush()
    if mode != "unsafe":
        assert disk.content == model


def test_what_is_written_stays_in_the_cache_until_a_flush() -> None:
    disk = Disk(noise(SIZE))
    found = exports(disk, "cache", SMALL)
    one, two = found.open(""), found.open("")
    one.pwrite(memoryview(b"x" * BLOCK), BLOCK, fua=False)
    assert disk.content == noise(SIZE)
    assert two.pread(BLOCK, BLOCK) == b"x" * BLOCK
    assert "pread" not in disk.asked
    two.flush()
    assert disk.content[BLOCK : 2 * BLOCK] == b"x" * BLOCK
    assert disk.asked[-2:] == ["pwrite", "flush"]
    two.flush()
    assert disk.asked[-2:] == ["flush", "flush"]  # there was nothing left to write


def test_fua_and_writethrough_go_to_the_disk_at_once() -> None:
    for arguments, fua in (([], True), (["cache=writethrough"], False)):
        disk = Disk(noise(SIZE))
        top = gate(disk, "cache", SMALL, *arguments)
        top.cache(BLOCK, 0)
        top.pwrite(memoryview(b"data"), 5, fua=fua)
        assert disk.content[5:9] == b"data"
        asked = len(disk.asked)
        assert top.pread(4, 5) == b"data"  # and to the cache
        assert len(disk.asked) == asked


def test_reads_are_kept_if_they_are_to_be(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    disk = Disk(noise(SIZE))
    top = gate(disk, "cache", SMALL, f"cache-on-read={switch}")
    for exists, times in ((False, 2), (True, 1)):
        if exists:
            switch.touch()
        disk.asked.clear()
        for _ in range(2):
            top.pread(100, 50)
        assert disk.asked == ["pread"] * times


def test_the_blocks_that_were_used_last_stay() -> None:
    disk = Disk(noise(64 * BLOCK))
    arguments = ("cache-max-size=64k", "cache-high-threshold=50", "cache-low-threshold=25")
    top = gate(disk, "cache", SMALL, *arguments, "cache-on-read=true")
    for block in range(8):
        top.pread(BLOCK, block * BLOCK)
    hot = (1, 6)
    for round_ in range(8, 40, 2):
        for block in (*hot, round_, round_ + 1):
            top.pread(BLOCK, block * BLOCK)
    disk.asked.clear()
    for block in hot:
        assert top.pread(BLOCK, block * BLOCK) == noise(64 * BLOCK)[block * BLOCK :][:BLOCK]
    assert disk.asked == []
    top.pread(BLOCK, 9 * BLOCK)
    assert disk.asked == ["pread"]


def test_a_hand_finds_what_was_not_used() -> None:
    room = Room(4, 2)
    room.note_use(0, 3)
    assert list(room.victims(0, 5))[:2] == [3, 4]
    assert list(room.victims(0, 0)) == []


def test_a_cache_takes_no_more_space_than_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Overlays] = []

    class Kept(Overlays):
        def __init__(self, block_size: int, name: str) -> None:
            super().__init__(block_size, name)
            made.append(self)

    monkeypatch.setattr("nbdfork.filters.cache.Overlays", Kept)
    disk = Disk(noise(4 * MIB))
    top = gate(disk, "cache", "cache-max-size=512k")
    for place in range(0, 4 * MIB, 64 * KIB):
        top.pwrite(memoryview(noise(64 * KIB)), place, fua=False)
    assert os.fstat(made[0].scratch.fd).st_blocks * 512 <= 512 * KIB
    assert top.pread(4 * MIB, 0) == noise(64 * KIB) * 64
    top.flush()
    assert disk.content == noise(64 * KIB) * 64


def test_a_disk_below_that_fails_loses_nothing() -> None:
    class Full(Disk):
        full = True

        def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, "full")
            super().pwrite(data, offset, flags)

    disk = Full(noise(SIZE))
    top = gate(disk, "cache", SMALL)
    top.pwrite(memoryview(b"data"), 5, fua=False)
    with refused(errno.ENOSPC):
        top.flush()
    disk.full = False
    top.flush()
    assert disk.content[5:9] == b"data"


@pytest.mark.parametrize(
    "arguments",
    [["cache=writeback"], ["cache=writethrough"], ["cache-on-read=true", "cache-max-size=1M"]],
)
def test_cache_as_nbdkit_does_it(arguments: list[str], tmp_path: Path) -> None:
    script = [*random_script(60000, seed=11, length=60), ("zero", 9000, 300), ("flush",)]
    script = [request for request in script if request[0] != "trim"]
    compare(tmp_path, ["--filter=cache", SMALL, *arguments], script, noise(60000))


def test_a_flush_by_one_client_is_about_all_and_survives_a_killed_one(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    with Server("-n", "--filter=cache", "file", disk) as server:
        killed = connect(server.uri)
        killed.pwrite(b"x" * 100_000, 5000)
        assert disk.read_bytes() == bytes(MIB)
        [worker] = eventually(server.serving)
        worker.kill()
        with connected(server.uri) as client:
            assert client.pread(100_000, 5000) == b"x" * 100_000
            client.flush()
        assert disk.read_bytes()[5000:105_000] == b"x" * 100_000
        del killed


def test_many_clients_and_kills_leave_what_was_flushed(tmp_path: Path) -> None:
    """Each of four clients writes its own bytes of every block; one more is killed at work."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    arguments = ("cache-max-size=256k", "cache-min-block-size=4k")
    with Server("-n", "--filter=cache", "file", disk, *arguments) as server:

        def work(number: int) -> None:
            chance = random.Random(number)
            with connected(server.uri) as client:
                for _ in range(60):
                    place = chance.randrange(256) * 4096 + number * 1000
                    client.pwrite(bytes([number + 1]) * 1000, place)
                    assert client.pread(1000, place) == bytes([number + 1]) * 1000
                client.flush()

        victim = connect(server.uri)
        [worker] = eventually(server.serving)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for place in range(20):
            victim.aio_pwrite(
                libnbd().Buffer.from_bytearray(bytearray(b"z" * 96)), place * 4096 + 4000
            )
        os.kill(worker.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        content = disk.read_bytes()
    for number in range(4):
        chance = random.Random(number)
        for _ in range(60):
            place = chance.randrange(256) * 4096 + number * 1000
            assert content[place : place + 1000] == bytes([number + 1]) * 1000


# -- cacheextents -----------------------------------------------------------------------------


class Asked(Disk):
    """a disk with many extents"""

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        self.asked.append("extents")
        for start in range(offset - offset % BLOCK, offset + count, BLOCK):
            yield Extent(start, BLOCK, (start // BLOCK + self.content[0]) % 2 * 3)


def test_extents_are_asked_for_once_and_again_after_a_change() -> None:
    disk = Asked(bytes(64 * BLOCK))
    found = exports(disk, "cacheextents")
    one, two = found.open(""), found.open("")

    def look(client: Gate) -> list[int]:
        return [
            client.extents(BLOCK, place, REQ_ONE)[0].type
            for place in range(100, 60 * BLOCK, 2 * BLOCK)
        ]

    first = look(one)
    assert disk.asked == ["extents"]
    two.pwrite(memoryview(b"\1"), 0, fua=False)
    assert look(one) != first
    assert disk.asked == ["extents", "pwrite", "extents"]
    two.pread(10, 0)
    look(one)
    assert disk.asked[3:] == ["pread"]


def test_what_is_remembered_is_what_is_there(tmp_path: Path) -> None:
    content = b"".join(bytes(BLOCK) if n % 3 else noise(BLOCK) for n in range(40))
    plain = gate(Disk(content), "")
    remembering = gate(Disk(content), "cacheextents")
    for place in random.Random(1).sample(range(len(content)), 60):
        count = min(10_000, len(content) - place)
        ours, theirs = remembering.extents(count, place, 0), plain.extents(count, place, 0)
        assert ours == theirs


# -- readahead, scan --------------------------------------------------------------------------


class LargeReads(Disk):
    """A disk that bears large requests."""

    def block_size(self) -> BlockSize:
        return BlockSize()


def test_reading_in_order_asks_the_disk_a_tenth_as_often() -> None:
    """What reading costs if each request waits for a disk far away is the number of them."""
    content = noise(64 * KIB) * 256
    disk = LargeReads(content)
    client = exports(disk, "readahead cache").open("")
    for place in range(0, len(content), 64 * KIB):
        assert client.pread(64 * KIB, place) == content[place : place + 64 * KIB]
    client.close()
    assert disk.asked.count("pread") <= 256 // 10


def wait_until_cached(disk: Disk, count: int) -> None:
    eventually(lambda: disk.asked.count("pread") >= count)


def test_readahead_begins_when_reads_are_in_order() -> None:
    content = noise(64 * KIB) * 256
    disk = Disk(content)
    found = exports(disk, "readahead cache")
    client = found.open("")
    client.pread(4096, 8 * MIB)  # who knows where it goes
    client.pread(4096, 2 * MIB)
    assert disk.asked == ["pread", "pread"]
    client.pread(4096, 2 * MIB + 4096)
    wait_until_cached(disk, 20)
    client.close()
    assert found.open("").pread(MIB, 2 * MIB) == content[2 * MIB : 3 * MIB]


@pytest.mark.parametrize("name", ["readahead", "scan"])
def test_over_a_disk_without_a_cache_nothing_is_done_but_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Uncached(Disk):
        def can_cache(self) -> Support:
            return Support.NONE

    top = gate(Uncached(noise(SIZE)), name)
    assert top.pread(100, 0) == noise(SIZE)[:100]
    assert f"{name}: it does nothing" in caplog.text
    assert "add --filter=cache" in caplog.text


def test_scan_has_all_of_a_disk_cached_and_others_go_on_with_it() -> None:
    disk = Disk(noise(64 * KIB) * 32)
    found = exports(disk, "scan cache", "scan-size=64k")
    client = found.open("")
    wait_until_cached(disk, 32)
    client.close()
    disk.asked.clear()
    other = found.open("")
    assert other.pread(2 * MIB, 0) == disk.content
    other.close()
    assert disk.asked == []


def test_scan_skips_what_a_client_has_read_already() -> None:
    disk = Disk(noise(64 * KIB) * 32)
    for arguments, least in (([], 0), (["scan-ahead=false"], 31)):
        found = exports(disk, "scan cache", "scan-size=64k", *arguments)
        scan = found._top
        assert isinstance(scan, Scan)
        client = found.open("")
        client.pread(512, 2 * MIB - 512)
        place = scan.place
        eventually(lambda: place[0] >= 2 * MIB - 64 * KIB)  # noqa: B023
        client.close()
        assert disk.asked.count("pread") >= least
