"""The cow filter: what is written stays in the overlay, which all clients share."""

import errno
import os
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdfork.plugin import (
    HOLE,
    ZERO,
    BlockSize,
    DescriptorExport,
    Extent,
)
from tests.support.beside import compare, random_script
from tests.support.disks import (
    BLOCK,
    KIB,
    MIB,
    SIZE,
    Disk,
    ReadOnlyDisk,
    ZeroingDisk,
    exports,
    gate,
    layer,
)
from tests.support.harness import Server, nbdfork, need, output, refused
from tests.support.libnbd import connected, libnbd
from tests.support.model import carry_out, check_extents, requests
from tests.support.noise import noise

TIB = 1024 * 1024 * MIB


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(st.tuples(st.integers(0, 2), requests(SIZE)), max_size=30),
    on_read=st.booleans(),
    on_cache=st.booleans(),
    zeroing=st.booleans(),
)
def test_cow_is_a_disk_of_which_nothing_reaches_the_one_below(
    script: list[tuple[int, tuple[str, int, int, int]]],
    on_read: bool,
    on_cache: bool,
    zeroing: bool,
) -> None:
    content = noise(SIZE - 2 * BLOCK) + bytes(2 * BLOCK)
    disk = (ZeroingDisk if zeroing else Disk)(content)
    cow = exports(
        disk, "cow", f"cow-block-size={BLOCK}", f"cow-on-read={on_read}", f"cow-on-cache={on_cache}"
    )
    model = bytearray(content)
    clients = [cow.open("") for _ in range(3)]
    for number, request in script:
        carry_out(clients[number], model, request)
    for client in clients:
        assert client.pread(SIZE, 0) == model
        check_extents(client, model, SIZE, 0)
    assert disk.content == content
    assert {name.split()[0] for name in disk.asked} <= {"pread", "cache", "extents"}


def test_cow_reads_the_disk_in_blocks_it_can_be_read_in() -> None:
    disk = Disk(noise(SIZE), 512)
    top = gate(disk, "cow", "cow-block-size=128k")  # more than the disk gives at once
    top.pwrite(memoryview(bytes(512)), BLOCK, fua=False)
    expected = bytearray(noise(SIZE))
    expected[BLOCK : BLOCK + 512] = bytes(512)
    whole = SIZE - SIZE % 512
    assert top.pread(whole, 0) == expected[:whole]
    assert top.block_size == BlockSize(512, 4096, 64 * KIB)


def test_cow_blocks_cannot_be_smaller_than_those_of_the_disk() -> None:
    with refused(errno.EINVAL):
        gate(Disk(bytes(256 * KIB), 8192), "cow", "cow-block-size=4k")


def test_the_size_of_a_disk_must_stay_below_cow() -> None:
    disk = Disk(noise(SIZE))
    cow = exports(disk, "cow")
    cow.open("")
    disk.content += b"more"
    with pytest.raises(OSError, match="the size of a disk must stay"):
        cow.open("")
    cow.open("another").pwrite(memoryview(b"x"), SIZE, fua=False)


class Sized(ReadOnlyDisk):
    """disks, each of which is as large as its name says"""

    def open(self, export_name: str, read_only: bool) -> Disk:
        return Disk(noise(int(export_name)))


@given(
    script=st.lists(
        st.sampled_from([1, 4096, 65536, 65537, 200000]).flatmap(
            lambda size: st.tuples(st.just(size), requests(size))
        ),
        max_size=20,
    )
)
def test_each_export_has_an_overlay_of_its_own(
    script: list[tuple[int, tuple[str, int, int, int]]],
) -> None:
    """Whatever is done to one, the others stay as they are."""
    cow = exports(Sized(), "cow", "cow-block-size=4k")
    models: dict[int, bytearray] = {}
    for size, request in script:
        model = models.setdefault(size, bytearray(noise(size)))
        carry_out(cow.open(str(size)), model, request)
    for size, model in models.items():
        assert cow.open(str(size)).pread(size, 0) == model


def test_more_exports_than_cow_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdfork.filters._overlay.MOST_EXPORTS", 2)
    cow = exports(Sized(), "cow")
    for name in ("1", "2"):
        cow.open(name)
    with pytest.raises(OSError, match="cow has 2 exports, and serves no more") as caught:
        cow.open("3")
    assert caught.value.errno == errno.ENOSPC
    assert cow.open("2").pread(2, 0) == noise(2)


class Huge(ReadOnlyDisk):
    """a disk that is larger than a file can be, and has a context of its own"""

    def get_size(self) -> int:
        return 32 * TIB

    def block_size(self) -> BlockSize:
        return BlockSize(1, 4096, 2**32 - 1)

    def contexts(self) -> list[str]:
        return ["x-test:written"]


def test_cow_takes_little_memory_to_tell_of_a_huge_range() -> None:
    """Clients with extended headers may ask for all of a disk at once."""
    huge = gate(Huge(), "cow", "cow-block-size=4k")
    count = 256 * 1024 * MIB
    tracemalloc.start()
    try:
        found = huge.extents(count, 0, 0)
        huge.zero(count, 0, may_trim=True, fast=True, fua=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * MIB
    assert found[0].type == 0
    assert huge.extents(MIB, count - MIB, 0) == [Extent(count - MIB, MIB, HOLE | ZERO)]
    assert huge.extents(MIB, count, 0) == [Extent(count, MIB, 0)]


def test_cow_trims_where_no_file_can_have_data() -> None:
    huge = gate(Huge(), "cow")
    huge.trim(MIB, 20 * TIB, fua=False)
    assert huge.pread(MIB, 20 * TIB) == bytes(MIB)


def test_cow_says_which_device_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    made = layer("cow")
    over = exports(Disk(noise(MIB)), [made])
    overlay = made.plugin.__dict__["_overlays"]
    overlay.data.close()
    overlay.data = DescriptorExport(os.open("/dev/full", os.O_RDWR), writable=True)
    for offset in (0, 10):
        with pytest.raises(OSError, match=r"the overlay: No space left.*/var/tmp") as caught:
            over.open("").pwrite(memoryview(b"x" * 65536), offset, fua=False)
        assert caught.value.errno == errno.ENOSPC
    assert over.open("").pread(MIB, 0) == noise(MIB)


def test_cow_gives_the_space_back_of_what_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/shm")  # a file system that tells at once what is allocated
    made = layer("cow")
    over = exports(Disk(noise(MIB)), [made], "cow-block-size=4k")
    cow = over.open("")
    data = made.plugin.__dict__["_overlays"].data._fd
    cow.pwrite(memoryview(noise(MIB)), 0, fua=True)
    assert os.fstat(data).st_blocks * 512 >= MIB
    cow.trim(MIB // 2, 0, fua=False)
    cow.zero(MIB // 2, MIB // 2, may_trim=False, fast=True, fua=False)
    assert os.fstat(data).st_blocks * 512 < MIB // 8


def test_what_cow_says_of_itself_is_valid_and_true() -> None:
    assert gate(Huge(), "cow", "cow-block-size=64k").block_size.preferred == 64 * KIB
    assert gate(Huge(), "cow", "cow-block-size=64M").block_size.preferred == 4096
    assert gate(Huge(), "noextents").contexts == ("x-test:written",)
    assert gate(Huge(), "cow").contexts == ()  # the disk below knows nothing of what is written


def test_cow_makes_a_read_only_disk_writable() -> None:
    top = gate(ReadOnlyDisk(), "cow")
    assert top.can_write
    assert top.can_multi_conn
    top.pwrite(memoryview(b"new"), 5, fua=True)
    assert top.pread(10, 0) == noise(SIZE)[:5] + b"new" + noise(SIZE)[8:10]


def test_cow_of_a_server_that_is_read_only_is_so() -> None:
    top = exports(Disk(noise(SIZE)), "cow", read_only=True).open("")
    assert not top.can_write
    with refused(errno.EPERM):
        top.pwrite(memoryview(b"x"), 0, fua=False)


def test_cow_changes_nothing_if_the_disk_below_cannot_be_read() -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "cow error", "error-pread-rate=100%", "error=ENOMEM")
    with refused(errno.ENOMEM):
        top.pwrite(memoryview(b"x"), 1, fua=False)
    top.pwrite(memoryview(bytes(SIZE)), 0, fua=False)  # needs nothing from below
    assert top.pread(SIZE, 0) == bytes(SIZE)


def test_cow_tells_trimmed_blocks_from_zeroed_ones() -> None:
    top = gate(Disk(noise(SIZE)), "cow", "cow-block-size=4k")
    top.zero(BLOCK, 0, may_trim=False, fast=True, fua=False)
    top.trim(BLOCK, BLOCK, fua=False)
    top.pwrite(memoryview(bytes(1)), 2 * BLOCK, fua=False)
    kinds = [(extent.length, extent.type) for extent in top.extents(SIZE, 0, 0)]
    assert kinds == [(BLOCK, ZERO), (BLOCK, HOLE | ZERO), (SIZE - 2 * BLOCK, 0)]


@pytest.mark.parametrize(
    ("arguments", "operation"),
    [(["cow-on-read=true"], "read"), (["cow-on-cache=true"], "cache")],
)
def test_cow_keeps_what_it_is_told_to_keep(arguments: list[str], operation: str) -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "cow", "cow-block-size=4k", *arguments)
    carry_out(top, disk.content, (operation, 10, BLOCK, 0))
    disk.asked.clear()
    assert top.pread(BLOCK, BLOCK) == noise(SIZE)[BLOCK : 2 * BLOCK]
    assert disk.asked == []
    top.cache(SIZE, 0)
    assert set(disk.asked) == ({"cache"} if operation == "read" else {"pread"})


def test_cow_keeps_reads_while_a_file_exists(tmp_path: Path) -> None:
    disk = Disk(noise(SIZE))
    switch = tmp_path / "on"
    top = gate(disk, "cow", f"cow-on-read={switch}")
    for expected in (["pread"], ["pread"], []):
        disk.asked.clear()
        top.pread(10, 0)
        assert disk.asked[:1] == expected
        if switch.exists():
            continue
        top.pread(10, 0)
        assert disk.asked == ["pread", "pread"]
        switch.touch()


@pytest.mark.parametrize("arguments", [[], ["cow-block-size=4k"], ["cow-on-read=true"]])
def test_cow_as_nbdkit_does_it(tmp_path: Path, arguments: list[str]) -> None:
    script = random_script(600000, seed=3, length=150)
    found = compare(tmp_path, ["--filter=cow", *arguments], script, noise(600000))
    assert found[-1] == noise(600000)


def settle(sent: Sequence[tuple[Any, int]]) -> None:
    """Wait until the requests (handle, cookie) are answered; libnbd raises if one failed."""
    for handle, cookie in sent:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)


def slices(size: int, draw: random.Random) -> Iterator[tuple[int, int]]:
    """Cut a disk into small pieces; yield (offset, length)."""
    start = 0
    while start < size:
        length = min(draw.choice([1, 100, 512, 1000, 3000, 4096, 9000]), size - start)
        yield start, length
        start += length


@contextmanager
def clients(server: Server, count: int) -> Iterator[list[Any]]:
    handles = [libnbd().NBD() for _ in range(count)]
    for handle in handles:
        handle.connect_uri(server.uri)
    yield handles
    for handle in handles:
        handle.shutdown()


def send_some_write(handle: Any, data: bytes, offset: int, draw: random.Random) -> int:
    """Send a request that writes *data*, zeroes perhaps in another way; return its cookie."""
    if any(data):
        buffer = libnbd().Buffer.from_bytearray(bytearray(data))
        cookie = handle.aio_pwrite(buffer, offset)
    else:
        cookie = draw.choice([handle.aio_zero, handle.aio_trim])(len(data), offset)
    assert isinstance(cookie, int)
    return cookie


@pytest.mark.parametrize("arguments", [[], ["cow-on-read=true"]])
def test_clients_that_write_at_once_into_the_same_blocks(
    tmp_path: Path, arguments: list[str]
) -> None:
    size = 100 * BLOCK + 123
    disk = tmp_path / "disk"
    disk.write_bytes(noise(size))
    model = bytearray(noise(size))
    draw = random.Random(4)
    # What is copied from below comes late, so that others come between if they can.
    slow = ("--filter=cow", "--filter=delay", "file", disk, "rdelay=1ms", "cow-block-size=4k")
    with Server("-n", *slow, *arguments) as server:
        with clients(server, 4) as handles:
            for _ in range(4):
                sent = []
                for offset, length in slices(size, draw):
                    handle = draw.choice(handles)
                    data = draw.choice([bytes(length), draw.randbytes(length)])
                    sent.append((handle, send_some_write(handle, data, offset, draw)))
                    model[offset : offset + length] = data
                settle(sent)
                for handle in handles:
                    assert handle.pread(size, 0) == model
            assert len(server.serving()) == 4
        with connected(server.uri) as later:
            assert later.pread(size, 0) == model
    assert disk.read_bytes() == noise(size)


def test_the_overlay_is_gone_with_the_server(tmp_path: Path) -> None:
    need("qemu-io")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = ("-n", "--filter=cow", "file", disk)
    with Server(*arguments, environment={"TMPDIR": str(scratch)}) as server:
        output("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", server.uri)
        output("qemu-io", "-f", "raw", "-c", "read -P 1 0 1M", server.uri)
        assert not list(scratch.iterdir())  # it has no name
    with Server(*arguments) as server:
        output("qemu-io", "-f", "raw", "-c", "read -P 0 0 1M", server.uri)


def test_an_overlay_that_has_no_place(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    done = nbdfork("-f", "--filter=cow", "null", env={"TMPDIR": str(missing)})
    assert done.returncode == 1
    assert "cow: " in done.stderr
    assert str(missing) in done.stderr


def test_the_files_of_a_directory_can_all_be_written(tmp_path: Path) -> None:
    """By clients of different workers, of which none sees what is another file's."""
    need("qemu-io")
    before = {}
    for number in (1, 2, 3):
        path = tmp_path / f"{number}.img"
        path.write_bytes(noise(number * 100 * KIB))
        before[path] = path.read_bytes()
    with Server("--filter=cow", "file", f"dir={tmp_path}") as server:
        uris = {n: f"nbd+unix:///{n}.img?socket={server.socket}" for n in (1, 2, 3)}
        for number, uri in uris.items():
            output("qemu-io", "-f", "raw", "-c", f"write -P {number} 0 {number}00k", uri)
        for number, uri in uris.items():
            output("qemu-io", "-f", "raw", "-c", f"read -P {number} 0 {number}00k", uri)
    assert {path: path.read_bytes() for path in before} == before
