"""The bitmap filter: what is written since a checkpoint is told, whatever happens."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nbdfork.filters._marks import Disk, Marks
from tests.support.harness import Server, eventually, nbdfork, need, output, run
from tests.support.libnbd import connect, connected, libnbd

BLOCK = 4096
BLOCKS = 200
SIZE = BLOCK * BLOCKS - 1000  # the last one is not whole


class Place:
    """A disk, where its bitmap is kept, and the words that serve both."""

    def __init__(self, path: Path) -> None:
        self.disk = path / "disk"
        self.disk.write_bytes(bytes(SIZE))
        self.directory = path / "bitmap"
        self.directory.mkdir()
        self.words: list[str | Path] = [
            "-n",
            "--filter=bitmap",
            "file",
            self.disk,
            f"bitmap-dir={self.directory}",
            f"bitmap-block-size={BLOCK}",
        ]

    def server(self, *words: str) -> Server:
        return Server(*self.words, *words)

    def add(self, name: str) -> None:
        """Make a checkpoint, from another process than those of the server."""
        marks = Marks(str(self.directory))
        try:
            marks.add(name)
        finally:
            marks.close()

    def saved(self) -> Any:
        return json.loads((self.directory / "checkpoints").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def status(client: Any, count: int, offset: int) -> list[int]:
    """Return lengths and types of extents, by turns, in the one context of *client*."""
    entries: list[int] = []
    client.block_status(count, offset, lambda _context, _offset, more, _error: entries.extend(more))
    return entries


def dirty(uri: str, checkpoint: str) -> set[int]:
    """Return the numbers of the blocks that were written since *checkpoint*."""
    with connected(uri, contexts=[f"qemu:dirty-bitmap:{checkpoint}"]) as client:
        found: set[int] = set()
        at = 0
        while at < SIZE:
            entries = status(client, SIZE - at, at)
            for length, is_dirty in zip(entries[::2], entries[1::2], strict=True):
                if is_dirty:
                    found.update(range(at // BLOCK, -(-(at + length) // BLOCK)))
                at += length
        assert at == SIZE
        return found


# -- what is told ------------------------------------------------------------------------------


def test_each_way_to_write_marks_the_blocks_it_touches(place: Place) -> None:
    with place.server("bitmap-checkpoint=start") as server:
        with connected(server.uri) as client:
            nbd = libnbd()
            client.pread(SIZE, 0)
            client.flush()
            assert dirty(server.uri, "start") == set()
            client.pwrite(b"x", 5 * BLOCK)
            client.pwrite(b"x" * 2, 8 * BLOCK - 1)
            client.trim(BLOCK, 20 * BLOCK)
            client.zero(BLOCK, 30 * BLOCK)
            client.zero(BLOCK, 40 * BLOCK, nbd.CMD_FLAG_NO_HOLE)
            client.zero(2 * BLOCK, 50 * BLOCK, nbd.CMD_FLAG_FAST_ZERO)
            client.pwrite(b"x", SIZE - 1)
        assert dirty(server.uri, "start") == {5, 7, 8, 20, 30, 40, 50, 51, BLOCKS - 1}


def test_any_number_of_checkpoints(place: Place) -> None:
    """A model: the blocks written since each of them; it outlives the server."""
    random = Random(3)
    written: dict[str, set[int]] = {}
    for start in range(3):
        with place.server() as server:
            for number in range(4):
                name = f"c{start}.{number}"
                place.add(name)
                written[name] = set()
                for _ in range(2):  # each client has a process of its own
                    with connected(server.uri) as client:
                        block = random.randrange(BLOCKS)
                        client.pwrite(b"%d" % number, block * BLOCK)
                        for since in written.values():
                            since.add(block)
            for name, expected in written.items():
                assert dirty(server.uri, name) == expected, name
    marks = Marks(str(place.directory))
    assert list(marks.checkpoints()) == list(written)
    marks.remove("c0.0")
    with pytest.raises(OSError, match="there is no checkpoint"):
        marks.remove("c0.0")
    marks.close()
    with place.server() as server:
        assert dirty(server.uri, "c0.1") == written["c0.1"]
        with connected(server.uri, contexts=["qemu:dirty-bitmap:c0.0"]) as client:
            assert not client.can_meta_context("qemu:dirty-bitmap:c0.0")


def test_clients_of_qemu_read_it(place: Place) -> None:
    need("qemu-img")
    with place.server("bitmap-checkpoint=monday") as server:
        with connected(server.uri) as client:
            client.pwrite(b"x", 3 * BLOCK)
        options = (
            f"driver=nbd,server.type=unix,server.path={server.socket},"
            "x-dirty-bitmap=qemu:dirty-bitmap:monday"
        )
        found = json.loads(output("qemu-img", "map", "--output=json", "--image-opts", options))
    # It shows what is dirty as what has no data; its own end is that of a whole sector.
    seen = [(one["start"], one["length"]) for one in found if not one["data"]]
    assert seen[0] == (3 * BLOCK, BLOCK)
    assert all(start >= SIZE // 512 * 512 for start, _ in seen[1:])


def test_a_large_disk(place: Place) -> None:
    """What is far apart is found, and the file of the marks is as sparse as they are."""
    os.truncate(place.disk, 2**42)
    with place.server("bitmap-checkpoint=c") as server:
        with connected(server.uri, contexts=["qemu:dirty-bitmap:c"]) as client:
            client.pwrite(b"x", 2**42 - 1)
            entries: list[int] = []
            while sum(entries[::2]) < 2**31:
                at = 2**42 - 2**31 + sum(entries[::2])
                entries += status(client, 2**42 - at, at)
    assert entries[-4:] == [entries[-4], 0, BLOCK, 1]
    assert not any(entries[1:-1:2])
    assert (place.directory / "blocks").stat().st_blocks * 512 < 1 << 20


# -- whatever happens --------------------------------------------------------------------------


class Writer:
    """A client that writes without a pause."""

    def __init__(self, uri: str, seed: int) -> None:
        self._client = connect(uri)
        self._random = Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                data = self._random.randbytes(8) * (BLOCK // 8)
                self._client.pwrite(data, self._random.randrange(BLOCKS - 1) * BLOCK)
        except libnbd().Error:
            pass  # its worker was killed

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


def incremental(uri: str, checkpoint: str, backup: bytearray) -> int:
    """Bring *backup* to what the disk is now; return how many blocks that took."""
    blocks = dirty(uri, checkpoint)
    with connected(uri) as client:
        for block in blocks:
            start = block * BLOCK
            backup[start : start + BLOCK] = client.pread(min(BLOCK, SIZE - start), start)
    return len(blocks)


@pytest.fixture
def writers(place: Place) -> Iterator[tuple[Server, list[Writer]]]:
    with place.server("bitmap-checkpoint=c0") as server:
        writers: list[Writer] = []
        try:
            yield server, writers
        finally:
            for writer in writers:
                writer.stop()


@pytest.mark.parametrize("kills", [False, True], ids=["alive", "killed"])
def test_no_write_is_missed_by_the_backups_taken_under_load(
    place: Place, writers: tuple[Server, list[Writer]], kills: bool
) -> None:
    """A checkpoint, then a copy of what was written since the one before: again and again."""
    server, running = writers
    backup = bytearray(SIZE)
    running += [Writer(server.uri, seed) for seed in range(3)]
    for number in range(1, 8):
        if kills:
            server.serving()[0].kill()
            running.append(Writer(server.uri, number + 100))
        place.add(f"c{number}")
        incremental(server.uri, f"c{number - 1}", backup)
    for writer in running:
        writer.stop()
    place.add("last")
    incremental(server.uri, "c7", backup)
    assert backup == place.disk.read_bytes()
    assert dirty(server.uri, "last") == set()
    assert not kills or "killed" in server.log


def test_a_server_that_was_killed_has_lost_nothing(place: Place) -> None:
    server = place.server("bitmap-checkpoint=c")
    with connected(server.uri) as client:
        client.pwrite(b"x", 9 * BLOCK)
        workers = server.workers()
        server.process.kill()
        for worker in workers:
            worker.kill()
        eventually(lambda: not any(worker.is_running() for worker in workers))
        server.kill()
    with place.server() as server:
        assert dirty(server.uri, "c") == {9}
        assert "count as written" not in server.log


def test_after_the_system_has_gone_down_all_blocks_count_as_written(place: Place) -> None:
    with place.server("bitmap-checkpoint=c"):
        pass
    for boot, expected in ((None, set()), ("another", set(range(BLOCKS)))):
        with place.server() as server:
            dirty(server.uri, "c")
        (place.directory / "checkpoints").write_text(
            json.dumps({**place.saved(), "in_use_since": boot})
        )
        with place.server() as server:
            assert dirty(server.uri, "c") == expected
            assert ("all blocks count as written" in server.log) is bool(boot)
    assert place.saved()["in_use_since"] is None


def test_a_disk_that_has_changed_its_size_counts_as_written_there(place: Place) -> None:
    with place.server("bitmap-checkpoint=c") as server:
        assert dirty(server.uri, "c") == set()
        os.truncate(place.disk, 150 * BLOCK)
        with connected(server.uri):
            pass
        os.truncate(place.disk, SIZE)
        assert dirty(server.uri, "c") == set(range(150, BLOCKS))


# -- what is refused ---------------------------------------------------------------------------


def test_two_servers_do_not_share_a_bitmap(place: Place) -> None:
    with place.server():
        done = nbdfork("-f", "-U", "-", *place.words, "--run", "true")
        assert done.returncode == 1
        assert f"{place.directory} is used by another server" in done.stderr


def test_another_disk_is_refused(place: Place) -> None:
    with place.server() as server, connected(server.uri):
        pass
    with Server(*place.words[:-1], "bitmap-block-size=8192") as server:
        with pytest.raises(libnbd().Error, match="no export"):
            connect(server.uri)
        eventually(lambda: "is for the export '' and blocks of 4096 bytes" in server.log)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("bitmap-dir=/none", "bitmap-dir=/none: no such directory: make it"),
        ("bitmap-checkpoint=a/b", "'a/b' is no name of a checkpoint"),
    ],
)
def test_what_is_wrong_is_told_at_the_start(place: Place, word: str, message: str) -> None:
    words = [one for one in place.words if str(one).split("=")[0] != word.split("=")[0]]
    done = nbdfork("-f", "-U", "-", *words, word, "--run", "true")
    assert done.returncode == 1
    assert message in done.stderr


def test_files_that_are_damaged_are_named(place: Place) -> None:
    (place.directory / "checkpoints").write_text("nonsense")
    done = nbdfork("-f", "-U", "-", *place.words, "--run", "true")
    assert f"{place.directory}/checkpoints is damaged" in done.stderr


def ctl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "nbdfork.ctl", *words)


def test_the_command_for_checkpoints(place: Place) -> None:
    words: list[str | Path] = ["checkpoint", place.directory]
    missing = ctl(*words)
    assert missing.returncode == 1
    assert f"checkpoint: No such file or directory ({place.directory})" in missing.stderr
    with place.server():
        pass
    for name in ("monday", "tuesday"):
        assert ctl(*words, "--add", name).returncode == 0
    assert ctl(*words, "--add", "monday").stderr == (
        f"nbdforkctl: error: checkpoint: there is a checkpoint 'monday' already"
        f" ({place.directory})\n"
    )
    assert ctl(*words, "--remove", "monday").returncode == 0
    [line] = ctl(*words).stdout.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  tuesday", line)


def test_a_name_is_given_once(place: Place) -> None:
    place.add("c")
    with pytest.raises(OSError, match="a checkpoint 'c' already"):
        place.add("c")


def test_the_marks_do_not_go_back(tmp_path: Path) -> None:
    """A late write of an older generation leaves what a newer one has marked."""
    marks = Marks(str(tmp_path))
    marks.settle(Disk("", 10 * BLOCK, BLOCK))
    with marks.writing(1, 2):
        pass
    marks.add("c")  # nobody writes: one process is enough
    with marks.writing(2, 2):
        pass
    marks._mark(1, 0, 10)
    since = marks.checkpoints()["c"].generation
    assert list(marks.runs(since, 0, 10)) == [(2, False), (2, True), (6, False)]
    marks.close()
