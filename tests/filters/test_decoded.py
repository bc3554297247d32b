"""What has been decoded is kept for all workers: never other bytes, never more than was said."""

import gzip
import os
import random
from array import array
from pathlib import Path

import pytest

from nbdfork.filters._decoded import PIECE, Decoded, Recorder, Share
from nbdfork.plugin import HOLE, ZERO, Extent
from tests.support.compressed import MIB, SIZE, Below, all_of, compressed, filter_of, kept


def pieces(*numbers: int) -> bytes:
    """Return pieces that differ, but for those of number 0, which are zeroes."""
    return b"".join(number.to_bytes(8, "little") * (PIECE // 8) for number in numbers)


def share(decoded: Decoded, size: int) -> Share:
    return Share(decoded, decoded.reserve(size), size)


def whole(found: Share, size: int) -> list[bytes | None]:
    """Return each piece of a disk that is kept, or None."""
    parts = []
    for offset in range(0, size, PIECE):
        count = min(PIECE, size - offset)
        part = found.read(count, offset)
        parts.append(None if part is None else bytes(part))
    return parts


def test_what_is_kept_is_found_by_every_disk_of_its_own() -> None:
    decoded = Decoded(10 * PIECE)
    first, second = share(decoded, 4 * PIECE), share(decoded, 4 * PIECE + 10)
    first.keep(pieces(1, 0, 3), PIECE)
    second.keep(pieces(7)[:9] + pieces(8, 9)[:-1], PIECE - 9)
    second.keep(b"x" * 20, 4 * PIECE - 10)
    assert whole(first, 4 * PIECE) == [None, pieces(1), pieces(0), pieces(3)]
    assert whole(second, 4 * PIECE + 10) == [None, pieces(8), None, None, b"x" * 10]
    assert first.read(3 * PIECE, PIECE + 5) == pieces(1)[5:]  # the next one is elsewhere
    assert bytes(first.read(9, 2 * PIECE - 9) or b"") == pieces(1)[-9:]


def test_pieces_in_a_row_are_read_at_once() -> None:
    decoded = Decoded(10 * PIECE)
    disk = share(decoded, 20 * PIECE)
    disk.keep(pieces(1, 2, 3, 0, 0, 0), 0)
    assert disk.read(9 * PIECE, 8) == pieces(1, 2, 3)[8:]
    assert disk.read(9 * PIECE, 3 * PIECE) == pieces(0, 0, 0)


def test_zeroes_are_told_and_all_else_is_data() -> None:
    decoded = Decoded(10 * PIECE)
    size = 3000 * PIECE + 100
    disk = share(decoded, size)
    disk.keep(pieces(1, 0, 0, 4, *[0] * 2500), 0)
    disk.keep(bytes(PIECE + 100), 2999 * PIECE)
    hole = HOLE | ZERO
    found: list[Extent] = []
    for extent in disk.extents(size - 10, 10):
        if found and found[-1].type == extent.type:
            found[-1] = found[-1]._replace(length=found[-1].length + extent.length)
        else:
            found.append(extent)
    assert found == [
        (10, PIECE - 10, 0),
        (PIECE, 2 * PIECE, hole),
        (3 * PIECE, PIECE, 0),
        (4 * PIECE, 2500 * PIECE, hole),
        (2504 * PIECE, 495 * PIECE, 0),
        (2999 * PIECE, PIECE + 100, hole),
    ]
    assert list(share(decoded, size).extents(5, 7)) == [(7, 5, 0)]


@pytest.mark.parametrize("name", ["gzip", "bzip2", "zstd", "lz4", "xz"])
def test_clients_are_told_of_zeroes(name: str) -> None:
    content = bytes(MIB) + random.Random(1).randbytes(MIB) + bytes(2 * MIB)
    layer = filter_of(name)
    data = compressed(name, content)
    first = kept(layer.unpack(Below(data), "disk"))
    if name == "xz":  # its index does not tell
        assert list(first.extents(4 * MIB, 0, 0)) == [(0, 4 * MIB, 0)]
        all_of(first)
    export = kept(layer.unpack(Below(data), "disk"))
    hole = HOLE | ZERO
    wanted = [(0, MIB, hole), (MIB, MIB, 0), (2 * MIB, 2 * MIB, hole)]
    assert list(export.extents(4 * MIB, 0, 0)) == wanted
    assert not kept(
        filter_of(name, **{f"{name}_scratch": "0"}).unpack(Below(data), "")
    ).can_extents()


def test_what_cannot_be_read_is_data_of_which_nothing_is_known() -> None:
    parts = [gzip.compress(bytes(MIB)), gzip.compress(bytes(MIB))[:-1]]
    export = kept(filter_of("gzip").unpack(Below(b"".join(parts)), "disk"))
    size = export.get_size()
    assert list(export.extents(size, 0, 0)) == [(0, MIB, HOLE | ZERO), (MIB, size - MIB, 0)]
    assert list(export.extents(9, size - 9, 0)) == [(size - 9, 9, 0)]


def test_the_oldest_make_room_and_zeroes_take_none() -> None:
    decoded = Decoded(4 * PIECE)
    disk = share(decoded, 40 * PIECE)
    disk.keep(pieces(*range(10, 13), *[0] * 10, 13), 0)
    assert whole(disk, 14 * PIECE)[:3] == [pieces(10), pieces(11), pieces(12)]
    disk.keep(pieces(14, 15), 14 * PIECE)
    found = whole(disk, 16 * PIECE)
    assert found[:2] == [None, None]
    assert found[2:] == [pieces(n) for n in (12, *[0] * 10, 13, 14, 15)]
    assert os.fstat(decoded._file.fd).st_size <= 4 * PIECE


def test_more_than_there_is_room_for() -> None:
    decoded = Decoded(3 * PIECE + 5)
    disk = share(decoded, 9 * PIECE)
    disk.keep(pieces(*range(1, 10)), 0)
    assert whole(disk, 9 * PIECE) == [pieces(1), pieces(2), pieces(3), *[None] * 6]
    for size in (0, PIECE - 1):
        none = Decoded(size)
        disk = share(none, PIECE)
        disk.keep(pieces(1), 0)
        assert whole(disk, PIECE) == [None]


def test_of_a_disk_that_is_decoded_the_beginning_is_kept() -> None:
    decoded = Decoded(20 * PIECE)
    recorder = Recorder(decoded)
    content = pieces(*range(1, 31))[:-100]
    for start in range(0, len(content), 33_333):
        recorder.write(content[start : start + 33_333])
    disk = Share(decoded, recorder.publish(len(content)), len(content))
    found = whole(disk, len(content))
    assert b"".join(part or b"" for part in found) == content[: 20 * PIECE]
    small = Recorder(decoded)
    small.write(b"few words")
    assert Share(decoded, small.publish(9), 9).read(5, 4) == b"words"


def test_no_space(caplog: pytest.LogCaptureFixture) -> None:
    decoded = Decoded(MIB)
    os.dup2(os.open("/dev/full", os.O_RDWR), decoded._file.fd)
    disk = share(decoded, MIB)
    for number in (1, 2):
        disk.keep(pieces(number), 0)
    assert whole(disk, MIB) == [None] * 16
    assert len(caplog.messages) == 1
    assert "cannot be kept in /var/tmp, so it has to be decoded again: No space" in caplog.text


def test_no_more_than_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs("/var/tmp")
    values = array("Q", list(status))
    values[1], values[4] = PIECE, 9  # f_frsize, f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    disk = share(Decoded(MIB), MIB)
    disk.keep(pieces(*range(1, 10)), 0)
    assert whole(disk, MIB)[3:5] == [pieces(4), None]


def test_what_is_overwritten_while_it_is_read_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = Decoded(4 * PIECE)
    disk = share(decoded, 9 * PIECE)
    disk.keep(pieces(1, 2), 0)
    os_pread = os.pread

    def overwrite(fd: int, count: int, offset: int) -> bytes:
        if fd == decoded._file.fd:  # the entry has been looked at
            monkeypatch.undo()
            disk.keep(pieces(3, 4, 5), 2 * PIECE)
        return os_pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", overwrite)
    assert disk.read(PIECE, 0) is None
    assert disk.read(PIECE, PIECE) == pieces(2)


def test_one_worker_writes_at_a_time_and_readers_know_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = Decoded(4 * PIECE)
    disk = share(decoded, 9 * PIECE)
    disk.keep(pieces(1, 2, 3), 0)
    seen = []
    os_pwrite = os.pwrite

    def look(fd: int, data: memoryview, offset: int) -> int:
        if fd == decoded._file.fd:
            seen.append((decoded._keeping._threads.locked(), whole(disk, 3 * PIECE)))
        return os_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", look)
    disk.keep(pieces(4, 5), 3 * PIECE)
    assert seen == [(True, [None, pieces(2), pieces(3)])]
    assert not decoded._keeping._threads.locked()


def test_workers_that_write_and_read_at_once_see_no_other_bytes() -> None:
    """The room is so small that each overwrites what the others are reading."""
    decoded = Decoded(5 * PIECE)
    count = 30
    disk = share(decoded, count * PIECE)

    def work(seed: int) -> int:
        chance = random.Random(seed)
        found = 0
        for _ in range(1500):
            number = chance.randrange(count - 3)
            run = chance.randrange(1, 4)
            part = disk.read(run * PIECE, number * PIECE)
            if part is None:
                disk.keep(pieces(*range(number + 1, number + 1 + run)), number * PIECE)
                continue
            found += 1
            if part != pieces(*range(number + 1, number + 1 + run))[: len(part)]:
                return -1
        return found

    children = []
    for seed in range(4):
        pid = os.fork()
        if not pid:
            os._exit(0 if work(seed) > 0 else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4


@pytest.mark.parametrize("name", ["gzip", "bzip2", "zstd", "lz4", "xz"])
def test_what_one_client_had_decoded_is_there_for_all(
    name: str, files: dict[str, Path], content: bytes
) -> None:
    layer = filter_of(name)
    data = files[name].read_bytes()
    first, second = Below(data), Below(data)
    assert all_of(kept(layer.unpack(first, "disk"))) == content
    export = kept(layer.unpack(second, "disk"))
    before = second.read
    assert all_of(export) == content
    assert second.read - before < len(data) / 4  # pieces at the edges of blocks, for xz
    if name != "xz":
        assert second.read == before
    assert len(content) == SIZE
