"""The offset filter, alone and with truncate: a part of the disk."""

import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.beside import compare, random_script
from tests.support.disks import BLOCK, MIB, SIZE, Disk, ZeroingDisk, gate
from tests.support.harness import Server, need, refused
from tests.support.libnbd import connected, libnbd
from tests.support.model import carry_out, requests
from tests.support.noise import noise


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(requests(9 * BLOCK), max_size=25),
    offset_first=st.booleans(),
    offset=st.sampled_from([0, 1, 512, BLOCK, BLOCK + 1]),
    length=st.sampled_from([0, 1, BLOCK, 3 * BLOCK + 5]),
    rounded=st.sampled_from([512, BLOCK, 2 * BLOCK]),
    zeroing=st.booleans(),
)
def test_a_part_and_zeroes_after_it(
    script: list[tuple[str, int, int, int]],
    offset_first: bool,
    offset: int,
    length: int,
    rounded: int,
    zeroing: bool,
) -> None:
    content = noise(SIZE)
    disk = (ZeroingDisk if zeroing else Disk)(content)
    if offset_first:  # a part of a lengthened disk
        top = gate(disk, "offset truncate", f"truncate={9 * BLOCK}", f"offset={offset}")
        visible = content[offset:]
    else:  # a lengthened part of a disk
        arguments = (f"offset={offset}", f"range={length}", f"round-up={rounded}")
        top = gate(disk, "truncate offset", *arguments)
        visible = content[offset : offset + length]
    model = bytearray(visible).ljust(top.size, b"\0")
    assert top.size == (9 * BLOCK - offset if offset_first else -(-length // rounded) * rounded)
    for operation, count, start, byte in script:
        count = min(count, top.size - start)
        if count <= 0:
            continue
        if operation == "write" and byte and start + count > len(visible):
            with refused(errno.ENOSPC):
                carry_out(top, model, (operation, count, start, byte))
            continue
        carry_out(top, model, (operation, count, start, byte))
    assert not top.size or top.pread(top.size, 0) == model
    changed = model[: len(visible)]
    assert disk.content == content[:offset] + changed + content[offset + len(visible) :]


def test_the_part_must_begin_with_a_block_of_the_disk() -> None:
    with refused(errno.EINVAL):
        gate(Disk(bytes(SIZE), 512), "offset", "offset=100")
    assert gate(Disk(bytes(SIZE), 512), "offset", "offset=512").size == SIZE - 512


@pytest.mark.parametrize("arguments", [["offset=1000", "range=50000"], ["offset=4k"], []])
def test_offset_as_nbdkit_does_it(tmp_path: Path, arguments: list[str]) -> None:
    script = [*random_script(50000, seed=1), ("zero", 5000, 300)]
    compare(tmp_path, ["--filter=offset", *arguments], script, noise(60000))


def test_a_part_that_is_not_there_is_refused_and_the_log_tells_why() -> None:
    need("nbdinfo")
    arguments = ("--filter=offset", "memory", "1M", "offset=1M", "range=1")
    with Server("-n", *arguments) as server:
        with pytest.raises(libnbd().Error), connected(server.uri):
            pass
        assert f"offset={MIB} range=1: the disk has only {MIB} bytes" in server.log


def test_an_export_below_is_closed_when_its_filter_refuses() -> None:
    closed = []

    class Closing(Disk):
        def close(self) -> None:
            closed.append(True)

    with refused(errno.EINVAL):
        gate(Closing(bytes(10)), "offset", "offset=11")
    assert closed == [True]
