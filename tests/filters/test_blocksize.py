"""The filters blocksize and blocksize-policy, and the ranges that workers hold."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdfork.filters._ranges import SharedRanges
from nbdfork.plugin import BlockSize, ConfigError
from tests.support.beside import compare, random_script
from tests.support.disks import BLOCK, KIB, SIZE, Disk, ZeroingDisk, gate
from tests.support.harness import Server, eventually, refused
from tests.support.libnbd import connected, libnbd
from tests.support.model import carry_out, requests
from tests.support.noise import noise


class BoundedDisk(ZeroingDisk):
    """a disk that refuses what is too long"""

    def _check(self, name: str, count: int, offset: int) -> None:
        super()._check(name, count, offset)
        most = 8 * KIB if name in ("pread", "pwrite") else 16 * KIB
        assert count <= most, (name, count)


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(requests(SIZE - SIZE % BLOCK), max_size=20),
    minimum=st.sampled_from([1, 512, BLOCK]),
)
def test_requests_of_any_size_and_place_fit(
    script: list[tuple[str, int, int, int]], minimum: int
) -> None:
    size = SIZE - SIZE % BLOCK
    disk = BoundedDisk(noise(size), minimum)
    top = gate(disk, "blocksize", f"minblock={BLOCK}", "maxdata=8k", "maxlen=16k")
    assert top.block_size.minimum == 1
    model = bytearray(noise(size))
    for operation, count, offset, byte in script:
        if operation == "trim":  # of which parts of blocks are left as they are
            continue
        if operation == "extents":
            count = min(count, 8 * KIB)
        carry_out(top, model, (operation, count, offset, byte))
    assert disk.content == model


def test_trim_leaves_parts_of_blocks_as_they_are() -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "blocksize", f"minblock={BLOCK}")
    assert top.size == 5 * BLOCK
    top.trim(2 * BLOCK, 100, fua=False)
    assert disk.content == noise(SIZE)[:BLOCK] + bytes(BLOCK) + noise(SIZE)[2 * BLOCK :]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["minblock=4k", "maxdata=6k"], "maxdata=6144 is no multiple of minblock=4096"),
        (["minblock=128k"], "power of 2 from 1 to 64k"),
        (["maxlen=8G"], "from 1 to 4G-1"),
    ],
)
def test_sizes_that_do_not_fit_together(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gate(Disk(b""), "blocksize", *arguments)


def test_blocks_must_be_those_of_the_disk_or_larger() -> None:
    with refused(errno.EINVAL, "minblock=512: the disk below has blocks of 4096"):
        gate(Disk(bytes(SIZE), 4096), "blocksize", "minblock=512")


@pytest.mark.parametrize(
    "arguments", [["minblock=4k"], ["minblock=1k", "maxdata=2k", "maxlen=3k"], ["maxdata=512"], []]
)
def test_blocksize_as_nbdkit_does_it(arguments: list[str], tmp_path: Path) -> None:
    size = 60000 // 4096 * 4096 if "minblock=4k" in arguments else 59392
    script = [*random_script(size, seed=3, length=60), ("zero", 9000, 300)]
    compare(tmp_path, ["--filter=blocksize", *arguments], script, noise(60000))


def test_clients_in_different_processes_write_parts_of_one_block() -> None:
    """Whoever reads a block and writes it back with something changed does not undo another."""
    rounds, clients = 60, 4
    with Server("-n", "--filter=blocksize", "memory", "4k", "minblock=4k") as server:

        def write(number: int) -> None:
            with connected(server.uri) as client:
                for turn in range(rounds):
                    client.pwrite(bytes([turn + 1]) * 100, 100 * number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with connected(server.uri) as client:
            assert client.pread(100 * clients, 0) == bytes([rounds]) * 100 * clients


def test_a_range_is_free_when_its_holder_has_been_killed() -> None:
    ranges = SharedRanges()
    ready, told = os.pipe()
    if (child := os.fork()) == 0:
        with ranges.held(100, 200):
            os.write(told, b"x")
            signal.pause()
        os._exit(0)
    os.read(ready, 1)
    with ranges.held(0, 100), ranges.held(200, 300):
        pass  # others are free
    taken = threading.Event()

    def take() -> None:
        with ranges.held(150, 160):
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.is_set()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    eventually(taken.is_set)
    thread.join()


def test_threads_of_one_worker_wait_for_each_other() -> None:
    ranges = SharedRanges()
    taken = threading.Event()

    def take() -> None:
        with ranges.held(0, 10):
            taken.set()

    with ranges.held(9, 20):
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.is_set()
    thread.join()
    assert taken.is_set()


# -- blocksize-policy -------------------------------------------------------------------------

MINIMUM = "blocksize-minimum=4k"


def test_by_default_all_requests_are_passed_on() -> None:
    disk = Disk(noise(SIZE))
    top = gate(disk, "blocksize-policy", MINIMUM, "blocksize-maximum=8k")
    assert top.block_size == BlockSize(4096, 4096, 8192)
    assert top.pread(10000, 1) == noise(SIZE)[1:10001]
    assert top.max_payload == 2**32 - 1


@pytest.mark.parametrize(("policy", "allowed"), [("error", True), ("strict-error", False)])
def test_what_policies_refuse(policy: str, allowed: bool) -> None:
    disk = Disk(noise(SIZE))
    arguments = (MINIMUM, "blocksize-maximum=8k", f"blocksize-error-policy={policy}")
    top = gate(disk, "blocksize-policy", *arguments)
    with refused(errno.EINVAL):
        top.pread(100, 0)
    with refused(errno.EINVAL):
        top.pwrite(memoryview(bytes(4096)), 512, fua=False)
    tail = SIZE % BLOCK
    if allowed:
        assert top.pread(tail, SIZE - tail) == noise(SIZE)[-tail:]
        with refused(errno.EINVAL):
            top.pread(3 * BLOCK, 0)
    else:
        with refused(errno.EINVAL):
            top.pread(tail, SIZE - tail)
        assert top.max_payload == 8192


def test_a_client_that_writes_too_much_is_ended() -> None:
    arguments = ("--filter=blocksize-policy", "memory", "1M", "blocksize-write-disconnect=8k")
    with Server("-n", *arguments) as server:
        client = libnbd().NBD()
        client.connect_uri(server.uri)
        client.pwrite(bytes(8192), 0)
        with pytest.raises(libnbd().Error):
            client.pwrite(bytes(8193), 0)
        assert client.aio_is_closed() or client.aio_is_dead()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blocksize-minimum=4k", "blocksize-preferred=512"], "is larger than"),
        (["blocksize-minimum=4k", "blocksize-maximum=6k"], "no multiple of"),
        (["blocksize-preferred=4k", "blocksize-maximum=512"], "is larger than"),
    ],
)
def test_policies_that_contradict_themselves(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gate(Disk(b""), "blocksize-policy", *arguments)


@pytest.mark.parametrize("policy", ["allow", "error"])
def test_policies_as_nbdkit_has_them(policy: str, tmp_path: Path) -> None:
    arguments = ["--filter=blocksize-policy", MINIMUM, "blocksize-maximum=64k"]
    arguments.append(f"blocksize-error-policy={policy}")
    script = [
        ("pread", 4096, 4096),
        ("pread", 100, 10),
        ("pwrite", b"x" * 100, 4096),
        ("pwrite", bytes(4096), 512),
        ("pread", 128 * KIB, 0),
        ("trim", 512, 4096),
        ("zero", 512, 4096),
        ("pread", 4096, 0),
        ("pread", 576, 199 * KIB),
    ]
    compare(tmp_path, arguments, script, noise(199 * KIB + 576))
